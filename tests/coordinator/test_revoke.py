"""A revoked site is out within the round: not counted, nothing sealed for it, its store user gone."""

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.members import (
    StoreAccess,
    add_site,
    coordinator_identity,
    roster_of,
    save_roster,
)
from fedllm.coordinator.rekey import rekey_coordinator
from fedllm.coordinator.revoke import revoke_site
from fedllm.coordinator.steps import AGGREGATE, DP_AUDIT, EVALUATE, LOCAL_TRAIN, RELEASE, JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.errors import AccessDeniedError, ConfigError, IdentityError, LeaseError, RefusedError
from fedllm.exchange.minio_store import MinioStore
from fedllm.journal.journal import Journal
from fedllm.protocol.messages import Roster
from fedllm.secure.identity import create_identity
from fedllm.secure.sealing import unseal
from fedllm.stack.minio import MinioServer
from tests.coordinator.played import PlayedSite, begin_round


def test_waiting_for_a_site_ends_within_seconds_of_its_revocation(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    begun = begin_round(training, sites)
    found = []
    waiting = threading.Thread(target=lambda: found.append(begun.wait("movies")))
    waiting.start()
    asked = time.monotonic()
    revoke_site(config, "movies", "its key was stolen")
    waiting.join(60)
    assert time.monotonic() - asked < 15
    assert (found[0].status, found[0].payload) == ("refused", None)


def test_an_update_that_came_before_the_revocation_does_not_count(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    begun = begin_round(training, sites)
    begun.take_part()
    steps = JournaledRunner(training)
    list(steps.each(LOCAL_TRAIN, 1, list(begun.plan.sites)))
    revoke_site(config, "movies")
    audited = steps.run(DP_AUDIT, 1)
    assert [counted.site for counted in audited.counted] == ["amazon", "nyt"]
    assert "revoked" in next(verdict.reason for verdict in audited.verdicts if verdict.site == "movies")
    model = steps.run(AGGREGATE, 1).model
    sealed = training.mailbox.store.get(model.key, limit=10**7)
    assert unseal(sealed, sites["nyt"].me)
    with pytest.raises(RefusedError):
        unseal(sealed, sites["movies"].me)


def test_the_next_plan_does_not_ask_a_revoked_site(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    revoke_site(config, "movies")
    assert begin_round(training, sites).plan.sites == ("amazon", "nyt")


def test_a_revoked_name_may_join_again_with_new_keys_alone(
    sites: dict[str, PlayedSite], config: FederationConfig, tmp_path: Path
) -> None:
    new = create_identity(tmp_path / "new", "movies").public
    with pytest.raises(IdentityError, match="with other keys"):
        add_site(config, new)
    revoke_site(config, "movies")
    assert revoke_site(config, "movies") == 4  # again: what was interrupted is finished
    assert add_site(config, new)
    assert sites["movies"].me.public != new


def test_nobody_is_revoked_who_never_was_a_member(
    sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    assert sites
    with pytest.raises(ConfigError, match="nobody is not in the roster"):
        revoke_site(config, "nobody")


def test_keys_are_replaced_between_trainings_alone(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig, tmp_path: Path
) -> None:
    assert training.run == "run-1"
    new = create_identity(tmp_path / "new", "movies").public
    with pytest.raises(LeaseError, match="leads run run-1"):
        add_site(config, new, replace=True)
    with pytest.raises(LeaseError, match="leads run run-1"):
        rekey_coordinator(config)
    assert sites["movies"].me.public in training.roster.sites


def test_a_run_under_former_keys_is_not_resumed_and_a_new_one_begins(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    assert sites
    public = Path(config.evaluation.public)
    with open_training(config, "run-1", public) as before:
        former = before.mailbox.me.public
    invitations = rekey_coordinator(config)
    assert sorted(invitations) == ["amazon", "movies", "nyt"]
    with pytest.raises(ConfigError, match="began with former keys"), open_training(config, "run-1", public):
        pass
    with open_training(config, "run-2", public) as after:
        assert after.mailbox.me.public != former
        assert after.roster.coordinator == after.mailbox.me.public


def test_a_revoked_sites_store_user_is_gone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minio_server: MinioServer, bucket: str
) -> None:
    from fedllm.agent.join import accept_invitation, init_site, read_card

    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", minio_server.access_key)
    monkeypatch.setenv("FEDLLM_SECRET_KEY", minio_server.secret_key)
    config = FederationConfig.model_validate(
        {
            "name": "revoking",
            "task": {"kind": "text", "fields": {"text": "text"}},
            "store": {"url": f"s3://{bucket}", "endpoint": minio_server.endpoint},
        }
    )
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one"}\n')
    home = tmp_path / "amazon"
    card = init_site("amazon", data, home, base="tiny")
    invitation = tmp_path / "invitation"
    invitation.write_bytes(add_site(config, read_card(card)))
    member = accept_invitation(invitation, home)
    session = member.connect()  # an open session of the site's
    assert isinstance(session, MinioStore)
    assert session.get(member.layout.roster, limit=10_000)
    revoke_site(config, "amazon")
    with pytest.raises(AccessDeniedError):
        session.get(member.layout.roster, limit=10_000)
    with pytest.raises(AccessDeniedError):
        session.put(member.layout.card("amazon"), b"still here")


def test_an_update_under_former_keys_does_not_count_though_the_name_is_back(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig, tmp_path: Path
) -> None:
    begun = begin_round(training, sites)
    begun.take_part()
    steps = JournaledRunner(training)
    list(steps.each(LOCAL_TRAIN, 1, list(begun.plan.sites)))
    revoke_site(config, "movies")
    add_site(config, create_identity(tmp_path / "new", "movies").public)
    assert [counted.site for counted in steps.run(DP_AUDIT, 1).counted] == ["amazon", "nyt"]


def test_a_model_is_sealed_anew_for_a_site_with_new_keys(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig, tmp_path: Path
) -> None:
    begun = begin_round(training, sites)
    begun.take_part()
    steps = JournaledRunner(training)
    baseline(training)
    list(steps.each(LOCAL_TRAIN, 1, list(begun.plan.sites)))
    steps.run(DP_AUDIT, 1)
    steps.run(AGGREGATE, 1)
    steps.run(EVALUATE, 1)
    steps.run(RELEASE, 1)
    revoke_site(config, "movies")
    new = create_identity(tmp_path / "new", "movies")
    add_site(config, new.public)
    sites["movies"] = replace(sites["movies"], me=new, counter=0)
    model = begin_round(training, sites, 2).plan.model
    sealed = training.mailbox.store.get(model.key, limit=10**7)
    for keys in (new, sites["nyt"].me):
        assert unseal(sealed, keys)


def test_two_changes_of_a_roster_at_once_are_not_both_kept(
    sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    assert sites
    with closing(Journal(config.name)) as journal:
        roster = roster_of(journal, coordinator_identity(config.name))
        save_roster(journal, roster, sites=roster.sites[:2])
        with pytest.raises(ConfigError, match="changed meanwhile"):
            save_roster(journal, roster, sites=roster.sites[1:])


def test_a_store_that_cannot_remove_a_user_has_shown_the_new_roster_all_the_same(
    sites: dict[str, PlayedSite], config: FederationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoreAccess, "has_users", property(lambda _self: True))
    with pytest.raises(ConfigError, match="administrator"):
        revoke_site(config, "movies")
    mail = sites["nyt"].mailbox
    with closing(Journal(config.name)) as journal:
        newest = roster_of(journal, coordinator_identity(config.name))
    assert mail.read(mail.layout.roster, Roster, newest.coordinator).message == newest
    assert [site.name for site in newest.sites] == ["amazon", "nyt"]
