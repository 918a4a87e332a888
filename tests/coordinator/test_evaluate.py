"""Measuring a round's model on the public set."""

import pytest

from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.training import Training
from fedllm.errors import TrainingError


def test_a_model_without_finite_answers_is_said_in_a_line(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = training.initial()
    monkeypatch.setattr(type(training), "initial", lambda _self: initial + 3e38)
    with pytest.raises(TrainingError, match=r"loss on the public set is nan: .* lower local\.lr"):
        baseline(training)
