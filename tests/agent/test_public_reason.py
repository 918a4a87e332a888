import pytest

from fedllm.agent.job import public_reason
from fedllm.errors import DataError, ModelError, TrainingError

PRIVATE = "record patient-4711: label 'HIV positive' is not in task.labels"


@pytest.mark.parametrize(
    "error", [DataError(PRIVATE), ValueError(PRIVATE), OSError(PRIVATE), ModelError(PRIVATE)]
)
def test_a_failure_tells_others_nothing_of_records(error: Exception) -> None:
    told = public_reason(error)
    assert "4711" not in told
    assert "HIV" not in told
    assert "the site's own log" in told


def test_what_went_wrong_in_training_itself_is_told() -> None:
    assert "lower local.lr" in public_reason(TrainingError("the loss is nan at step 3: lower local.lr"))
