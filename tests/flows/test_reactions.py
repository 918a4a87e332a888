"""What the automations of a federation answer, and with what."""

from typing import Any

import yaml
from prefect.server.events.schemas.automations import AutomationCreate

from fedllm.coordinator import site_watch
from fedllm.stack.deploy import deployment_file, deployment_names
from fedllm.stack.reactions import (
    BUDGET,
    NEW_DATA,
    OFF_AT_FIRST,
    REACTIONS,
    REFUSED,
    SILENT_SITE,
    reaction_name,
    reactions,
)
from flows import events

ID = "6f1c2d3e-0000-4000-8000-00000000000{}"


def deployed(*federations: str) -> dict[str, dict[str, Any]]:
    """What Prefect would say of infra/prefect.yaml, deployed for each of these federations."""
    found: dict[str, dict[str, Any]] = {}
    for federation in federations:
        text = deployment_file().read_text().replace("{{ $FEDLLM_NAME }}", federation)
        for entry in yaml.safe_load(text)["deployments"]:
            flow = entry["entrypoint"].rpartition(".")[2].replace("_", "-")
            found[f"{flow}/{entry['name']}"] = {"id": ID.format(len(found)), "tags": entry["tags"]}
    return found


def answers(federation: str = "trial") -> dict[str, dict[str, Any]]:
    """By their names without the federation's."""
    there = deployed("trial", "other")
    suffix = reaction_name("", federation)
    return {body["name"].removesuffix(suffix): body for body in reactions(federation, there)}


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


def test_they_act_on_what_is_deployed_for_their_own_federation() -> None:
    there, told = deployed("trial", "other"), answers()
    (paused,) = told[BUDGET]["actions"]
    assert paused["deployment_id"] == there["federated-training/trial-nightly"]["id"]
    assert told[REFUSED]["actions"] == [paused]
    (run,) = told[NEW_DATA]["actions"]
    assert (run["type"], run["deployment_id"]) == ("run-deployment", there["federated-round/trial"]["id"])


def test_without_deployments_only_what_needs_none_is_there() -> None:
    assert [body["name"] for body in reactions("trial", {})] == [reaction_name(SILENT_SITE, "trial")]


def test_another_deployment_or_federation_shows_in_the_description() -> None:
    assert answers()[BUDGET]["description"] != answers("other")[BUDGET]["description"]
    assert reactions("trial", {}) == reactions("trial", {})


def test_two_federations_share_no_automation_and_no_deployment() -> None:
    both = ("trial", "other")
    trial, other = ({body["name"] for body in reactions(name, deployed(*both))} for name in both)
    assert len(trial) == len(other) == len(REACTIONS)
    assert not trial & other
    trial, other = (
        {action.get("deployment_id") for body in answers(name).values() for action in body["actions"]}
        for name in both
    )
    assert trial & other == {None}  # of the one that does nothing
    trial, other = (set(deployment_names(deployment_file(), name)) for name in both)
    assert not trial & other
