"""An evaluation keeps which public records were right, so that versions can be compared in pairs."""

from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.training import Training
from fedllm.data.records import read_records
from fedllm.training.public_answers import public_sha256


def test_an_evaluation_keeps_the_answers_and_names_the_set(training: Training) -> None:
    measured = baseline(training)
    assert measured.answers is not None
    judged = measured.answers.judged
    assert judged is not None
    assert sum(judged) / len(judged) == measured.metrics["accuracy"]
    assert len(judged) == measured.records == 2
    assert measured.answers.public_sha256 == public_sha256(read_records(training.public))
