"""The automations speak of what is deployed."""

from typing import Any

import yaml
from prefect.server.events.schemas.automations import AutomationCreate

from fedllm.stack.automations import FLOWS, HEARTBEAT, SILENCE, TAG, ZOMBIE, definitions
from fedllm.stack.deploy import deployment_file
from flows.federated_round import federated_round
from flows.federated_training import federated_training
from flows.watch import BEAT


def test_the_automations_are_about_the_flows_that_train() -> None:
    assert set(FLOWS) == {federated_training.name, federated_round.name}


def test_every_deployment_carries_the_tag_by_which_it_is_resumed() -> None:
    deployments: list[dict[str, Any]] = yaml.safe_load(deployment_file().read_text())["deployments"]
    assert all(TAG in deployment["tags"] for deployment in deployments)


def test_prefect_takes_the_automations() -> None:
    for body in definitions():
        taken = AutomationCreate.model_validate(body)
        assert taken.enabled
        assert len(taken.actions) == 1


def test_several_heartbeats_may_be_late_before_a_run_is_held_to_be_gone() -> None:
    zombie = next(body for body in definitions() if body["name"] == ZOMBIE)
    assert HEARTBEAT in zombie["trigger"]["expect"]
    assert zombie["trigger"]["within"] == SILENCE > 5 * BEAT


def test_a_changed_definition_tells_itself_apart() -> None:
    usual, other = definitions(), definitions(silence=SILENCE + 1)
    assert [a["description"] == b["description"] for a, b in zip(usual, other, strict=True)].count(False) == 1
