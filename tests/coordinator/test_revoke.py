"""A revoked site is out within the round: not counted, nothing sealed for it, its store user gone."""

import threading
import time
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.coordinator.rekey import rekey_coordinator
from fedllm.coordinator.revoke import revoke_site
from fedllm.coordinator.rounds import JournaledSteps
from fedllm.coordinator.training import Training, open_training
from fedllm.errors import AccessDeniedError, ConfigError, IdentityError, LeaseError, RefusedError
from fedllm.exchange.minio_store import MinioStore
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
    waiting.join(10)
    assert time.monotonic() - asked < 5
    assert (found[0].status, found[0].payload) == ("refused", None)


def test_an_update_that_came_before_the_revocation_does_not_count(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    begun = begin_round(training, sites)
    for site in sites.values():
        site.take_part(begun.plan, begun.plan_sha256)
    steps = JournaledSteps(training)
    outcomes = [steps.wait_for(1, name, lambda _text: None) for name in begun.plan.sites]
    revoke_site(config, "movies")
    audited = steps.dp_audit(1, outcomes)
    assert [counted.site for counted in audited.counted] == ["amazon", "nyt"]
    assert "revoked" in next(verdict.reason for verdict in audited.verdicts if verdict.site == "movies")
    model = steps.aggregate(1).model
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
    with pytest.raises(ConfigError, match="began under former keys"), open_training(config, "run-1", public):
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
