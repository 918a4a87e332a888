"""A training's progress and scores, read from its journal."""

from fedllm.coordinator.training import Training
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Evaluated
from fedllm.tasks.metrics import main_metric


def played(journal: Journal, run: str) -> int:
    """Return how many rounds of a run are completed."""
    return sum(step == "release" for _, step in journal.times(run))


def evaluations(training: Training) -> dict[int, Evaluated]:
    """Return the evaluations by round, in order; round 0 is zero-shot."""
    journal, run = training.journal, training.run
    done = sorted((n, step) for n, step in journal.times(run) if step in {"baseline", "evaluate"})
    return {number: journal.require(run, number, step, Evaluated) for number, step in done}


def score(measured: Evaluated) -> float:
    """Return the score of an evaluation's main metric; higher is better."""
    metric = main_metric(measured.metrics, measured.metric)
    return metric.score(measured.metrics[metric.name])
