"""Automations on a real Prefect: a federation's events, and what follows from them."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.deployments import run_deployment
from prefect.events.worker import EventsWorker

from fedllm.config import FederationConfig, load_federation
from fedllm.coordinator.members import add_site
from fedllm.doctor import deployed, servers
from fedllm.endpoints import Endpoints
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox
from fedllm.protocol.layout import Layout
from fedllm.secure.identity import create_identity
from fedllm.stack import reactions
from fedllm.stack.automations import ZOMBIE, register_automations, remove_reactions
from fedllm.stack.health import PrefectApi
from fedllm.stack.programs import POOL, WORKER
from flows.events import emit
from flows.site_watch import site_watch
from tests.coordinator.played import PlayedSite
from tests.prefect_client import speaking_with

BUDGET, NEW_DATA, REFUSED, SILENT_SITE = (
    reactions.reaction_name(name, "sentiment")
    for name in (reactions.BUDGET, reactions.NEW_DATA, reactions.REFUSED, reactions.SILENT_SITE)
)
ROUND, NIGHTLY = "federated-round/sentiment", "federated-training/sentiment-nightly"


@pytest.fixture
def api(there: Endpoints) -> Iterator[PrefectApi]:
    """The stack's Prefect, with a work pool that starts nothing meanwhile."""
    found = PrefectApi(there.prefect_api_url)
    found.call(f"/work_pools/{POOL}", {"is_paused": True}, method="PATCH")
    with speaking_with(there):
        yield found
    for run in runs(found, ROUND):
        found.call(f"/flow_runs/{run['id']}", method="DELETE")
    found.call(f"/work_pools/{POOL}", {"is_paused": False}, method="PATCH")


def runs(api: PrefectApi, deployment: str) -> list[dict[str, Any]]:
    wanted = {"deployments": {"id": {"any_": [api.deployments()[deployment]["id"]]}}}
    return list(api.call("/flow_runs/filter", wanted))


def automations(api: PrefectApi) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in api.call("/automations/filter", {})}


def switch(api: PrefectApi, name: str, *, on: bool) -> None:
    api.call(f"/automations/{automations(api)[name]['id']}", {"enabled": on}, method="PATCH")


def until(condition: Callable[[], object], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def sent() -> None:
    EventsWorker.instance().wait_until_empty()


@pytest.fixture
def federation(tmp_path: Path, there: Endpoints) -> tuple[Path, dict[str, PlayedSite]]:
    """The deployed federation's file with a folder as its store, and three sites that the test plays."""
    assert there
    told = {
        "name": "sentiment",
        "model": {"base": "tiny"},
        "task": {"labels": {"positive": " positive", "negative": " negative"}},
        "rounds": {"min_sites": 2},
        "store": {"url": f"file://{tmp_path / 'store'}"},
    }
    file = tmp_path / "federation.yaml"
    file.write_text(yaml.safe_dump(told))
    config: FederationConfig = load_federation(file)
    sites = {}
    for name in ("amazon", "movies", "nyt"):
        me = create_identity(tmp_path / name, name)
        add_site(config, me.public)
        store = DirectoryStore(tmp_path / "store")
        sites[name] = PlayedSite(me, store, Mailbox(store, Layout("sentiment"), me), tmp_path / name)
    return file, sites


def test_new_data_at_two_of_three_sites_make_exactly_one_round(
    api: PrefectApi, federation: tuple[Path, dict[str, PlayedSite]]
) -> None:
    file, sites = federation
    switch(api, NEW_DATA, on=True)
    try:
        for site in sites.values():
            site.show_card()
        assert site_watch(str(file))["events"] == []
        sites["amazon"].show_card(announced=1)
        assert site_watch(str(file))["events"] == ["fedllm.site.new-data"]
        sites["amazon"].show_card(announced=2)  # one site twice is not two sites
        assert site_watch(str(file))["events"] == ["fedllm.site.new-data"]
        sites["movies"].show_card(announced=1)
        assert "fedllm.federation.new-data" in site_watch(str(file))["events"]
        until(lambda: runs(api, ROUND))
        assert site_watch(str(file))["events"] == []
        time.sleep(2)  # for what should not come
        (run,) = runs(api, ROUND)
    finally:
        switch(api, NEW_DATA, on=False)
    assert run["parameters"]["run_id"] is None
    assert run["idempotency_key"].startswith("automation ")


def test_a_double_trigger_with_one_idempotency_key_makes_one_run(api: PrefectApi) -> None:
    triggered = [
        run_deployment(ROUND, timeout=0, as_subflow=False, idempotency_key="announcement-7") for _ in range(2)
    ]
    assert len({run.id for run in triggered}) == len(runs(api, ROUND)) == 1


def test_a_low_budget_and_a_refused_version_pause_what_is_on_schedule_and_a_person_resumes_it(
    api: PrefectApi,
) -> None:
    def paused() -> bool:
        return bool(api.deployments()[NIGHTLY]["paused"])

    nightly = api.deployments()[NIGHTLY]["id"]
    emit("sentiment", "fedllm.review.refused", {"version": "1"})  # off at first: nothing follows
    emit("another", "fedllm.budget.low", {"site": "amazon"}, site="amazon")  # another federation's
    sent()
    switch(api, REFUSED, on=True)
    try:
        for event in ("fedllm.budget.low", "fedllm.review.refused"):
            assert not paused()
            emit("sentiment", event, {"site": "amazon"}, site="amazon")
            sent()
            until(paused)
            (finding,) = deployed.deployments(api)
            assert (finding.status, NIGHTLY in finding.detail) == ("warn", True)
            api.call(f"/deployments/{nightly}/resume_deployment", {})
    finally:
        switch(api, REFUSED, on=False)
        api.call(f"/deployments/{nightly}/resume_deployment", {})
    assert not api.deployments()[ROUND]["paused"]


def test_each_silent_site_is_noted_by_the_automation_that_waits_for_a_notification(api: PrefectApi) -> None:
    mine = f"prefect.automation.{automations(api)[SILENT_SITE]['id']}"
    begun = datetime.now(UTC)

    def noted() -> int:
        wanted = {
            "occurred": {"since": begun.isoformat(), "until": (begun + timedelta(hours=1)).isoformat()},
            "event": {"name": ["prefect.automation.triggered"]},
            "resource": {"id": [mine]},
        }
        return len(api.call("/events/filter", {"filter": wanted})["events"])

    for site in ("amazon", "movies"):
        emit("sentiment", "fedllm.site.silent", {"site": site}, site=site)
    sent()
    until(lambda: noted() == 2)


def test_registering_again_keeps_what_its_owner_changed_and_renews_what_changed_here(
    api: PrefectApi,
) -> None:
    found = automations(api)
    assert {found[name]["enabled"] for name in (NEW_DATA, REFUSED)} == {False}
    assert {found[name]["enabled"] for name in (BUDGET, SILENT_SITE)} == {True}
    assert register_automations(api, federation="sentiment") == []
    known = found[BUDGET]
    body = {key: known[key] for key in ("name", "trigger", "actions", "tags")}
    older = body | {"enabled": False, "description": "as another fedllm described it"}
    api.call(f"/automations/{known['id']}", older, method="PUT")
    assert register_automations(api, federation="sentiment") == [BUDGET]
    renewed = automations(api)[BUDGET]
    assert (renewed["enabled"], renewed["description"]) == (False, known["description"])
    switch(api, BUDGET, on=True)


def test_automations_from_before_they_had_the_federations_name_are_taken_over(api: PrefectApi) -> None:
    known = automations(api)[NEW_DATA]
    body = {key: known[key] for key in ("trigger", "actions", "tags", "description")}
    former = body | {"name": reactions.NEW_DATA, "enabled": True}
    api.call(f"/automations/{known['id']}", method="DELETE")
    api.call("/automations/", former)
    assert register_automations(api, federation="another") == [
        reactions.reaction_name(reactions.SILENT_SITE, "another")
    ]
    assert reactions.NEW_DATA in automations(api)  # not the other federation's
    remove_reactions(api, "another")
    assert register_automations(api, federation="sentiment") == [NEW_DATA]
    found = automations(api)
    assert (found[NEW_DATA]["enabled"], reactions.NEW_DATA in found) == (True, False)
    switch(api, NEW_DATA, on=False)


def test_the_doctor_sees_a_paused_pool_a_worker_that_is_gone_and_runs_that_are_late(api: PrefectApi) -> None:
    flow = api.deployments()[ROUND]["flow_id"]
    due = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    late = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
    made = [api.call("/flow_runs/", {"flow_id": flow, "name": "too-late", "state": late})]
    pool, worker = servers.worker(api)
    assert (pool.status, "work-pool resume" in pool.remedy, worker.status) == ("warn", True, "ok")
    (found,) = deployed.runs(api)
    assert (found.status, "too-late" in found.detail) == ("warn", True)
    for run in made:
        api.call(f"/flow_runs/{run['id']}", method="DELETE")

    def gone() -> bool:
        api.call(f"/work_pools/{POOL}/workers/{WORKER}", method="DELETE")  # until its next heartbeat
        return list(servers.worker(api))[1].status == "fail"

    until(gone)  # a heartbeat may come between the two


def test_the_doctor_sees_a_training_without_a_sign_of_life(
    api: PrefectApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = api.deployments()[ROUND]["flow_id"]
    run = api.call("/flow_runs/", {"flow_id": flow, "name": "zombie", "state": {"type": "RUNNING"}})
    (found,) = deployed.runs(api)
    assert (found.status, "1 trainings under way" in found.detail) == ("ok", True)
    monkeypatch.setattr(deployed, "SILENCE", 0.0)
    (found,) = deployed.runs(api)
    assert (found.status, "zombie" in found.detail) == ("warn", True)
    api.call(f"/flow_runs/{run['id']}", method="DELETE")


def test_the_doctor_names_automations_and_deployments_that_are_off_or_absent(
    api: PrefectApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch(api, ZOMBIE, on=False)
    (found,) = deployed.automations(api, "sentiment")
    assert (found.status, ZOMBIE in found.detail) == ("warn", True)
    api.call(f"/automations/{automations(api)[ZOMBIE]['id']}", method="DELETE")
    (found,) = deployed.automations(api, "sentiment")
    assert (found.status, found.detail) == ("warn", f"not registered: {ZOMBIE}")
    assert register_automations(api, federation="sentiment") == [ZOMBIE]
    (found,) = deployed.automations(api, "sentiment")
    assert found.status == "ok"
    more = tmp_path / "prefect.yaml"
    more.write_text("deployments: [{name: other, entrypoint: flows.federated_round.federated_round}]")
    monkeypatch.setattr(deployed, "deployment_file", lambda: more)
    (found,) = deployed.deployments(api, "sentiment")
    assert (found.status, "federated-round/other" in found.detail) == ("warn", True)
