"""What the automations of a federation answer, and with what."""

from typing import Any

import yaml
from prefect.server.events.schemas.automations import AutomationCreate

from fedllm.coordinator import site_watch
from fedllm.stack.deploy import deployment_file
from fedllm.stack.reactions import BUDGET, NEW_DATA, OFF_AT_FIRST, REFUSED, SILENT_SITE, reactions
from flows import events

ID = "6f1c2d3e-0000-4000-8000-00000000000{}"


def deployed() -> dict[str, dict[str, Any]]:
    """What Prefect would say of infra/prefect.yaml."""
    found = {}
    for number, entry in enumerate(yaml.safe_load(deployment_file().read_text())["deployments"]):
        flow = entry["entrypoint"].rpartition(".")[2].replace("_", "-")
        found[f"{flow}/{entry['name']}"] = {"id": ID.format(number), "tags": entry["tags"]}
    return found


def answers(federation: str = "trial") -> dict[str, dict[str, Any]]:
    return {body["name"]: body for body in reactions(federation, deployed())}


def test_prefect_takes_them_and_those_that_start_or_stop_work_unasked_are_off() -> None:
    for name, body in answers().items():
        assert AutomationCreate.model_validate(body).enabled == (name not in OFF_AT_FIRST)
    assert set(answers()) == {BUDGET, NEW_DATA, SILENT_SITE, REFUSED}


def test_they_answer_the_events_that_are_sent_and_of_their_own_federation_alone() -> None:
    expected = {name: body["trigger"]["expect"] for name, body in answers().items()}
    assert expected == {
        BUDGET: [events.BUDGET_LOW],
        NEW_DATA: [site_watch.NEW_DATA],
        SILENT_SITE: [site_watch.SITE_SILENT],
        REFUSED: ["fedllm.review.refused"],
    }
    matched = {body["trigger"]["match"]["prefect.resource.id"] for body in answers().values()}
    assert matched == {"fedllm.federation.trial"}


def test_they_act_on_what_is_deployed() -> None:
    there, told = deployed(), answers()
    (paused,) = told[BUDGET]["actions"]
    assert paused["deployment_id"] == there["federated-training/sentiment-nightly"]["id"]
    assert told[REFUSED]["actions"] == [paused]
    (run,) = told[NEW_DATA]["actions"]
    assert (run["type"], run["deployment_id"]) == ("run-deployment", there["federated-round/sentiment"]["id"])


def test_without_deployments_only_what_needs_none_is_there() -> None:
    assert [body["name"] for body in reactions("trial", {})] == [SILENT_SITE]


def test_another_deployment_or_federation_shows_in_the_description() -> None:
    assert answers()[BUDGET]["description"] != answers("other")[BUDGET]["description"]
    assert reactions("trial", {}) == reactions("trial", {})
