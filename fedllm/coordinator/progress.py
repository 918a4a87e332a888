"""How far a training is and how well it does, read from its journal."""

from fedllm.coordinator.training import Training
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Evaluated
from fedllm.tasks.metrics import main_metric


def played(journal: Journal, run: str) -> int:
    """How many rounds of a run were completed."""
    return sum(step == "release" for _, step in journal.times(run))


def evaluations(training: Training) -> dict[int, Evaluated]:
    """What was measured, by round in order; round 0 is zero-shot."""
    journal, run = training.journal, training.run
    done = sorted((n, step) for n, step in journal.times(run) if step in {"baseline", "evaluate"})
    return {number: journal.require(run, number, step, Evaluated) for number, step in done}


def score(measured: Evaluated) -> float:
    """One number that is better when it is higher: of the metric that counts."""
    metric = main_metric(measured.metrics, measured.metric)
    return metric.score(measured.metrics[metric.name])
