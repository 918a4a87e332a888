"""What a reviewer may type, and that the deployments are paused and wait for people."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fedllm.stack.deploy import deployment_file
from flows.promotion import Approval, promotion
from flows.review_tags import review_tags


def deployed(module: str) -> dict[str, Any]:
    found = yaml.safe_load(deployment_file().read_text())["deployments"]
    (entry,) = [entry for entry in found if entry["entrypoint"].startswith(f"flows.{module}.")]
    return dict(entry)


@pytest.mark.parametrize("typed", [{"reviewer": ""}, {"reason": ""}, {"approve": None}, {"more": 1}])
def test_an_approval_needs_a_name_and_a_reason(typed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Approval(**({"approve": True, "reviewer": "Ann", "reason": "reads well"} | typed))


def test_the_card_on_the_form_leaves_the_fields_as_strict_as_they_were() -> None:
    shown = Approval.with_initial_data(description="# card")
    assert shown._description == "# card"
    schema = shown.model_json_schema()
    assert set(schema["required"]) == {"approve", "reviewer", "reason"}
    assert schema["properties"]["reviewer"]["minLength"] == 1


def test_the_deployments_have_the_flows_parameters() -> None:
    for module, flow in (("promotion", promotion), ("review_tags", review_tags)):
        entry = deployed(module)
        assert set(entry["parameters"]) == set(flow.parameters.properties)
        assert {"fedllm", "review"} <= set(entry["tags"])


def test_tags_are_looked_at_by_a_schedule_that_is_paused_at_first() -> None:
    (schedule,) = deployed("review_tags")["schedules"]
    assert (schedule["interval"], schedule["active"]) == (300, False)
    assert "schedules" not in deployed("promotion"), "nothing is promoted by itself"
