"""The quality gate: a challenger against the champion on the public set, in pairs where both kept answers."""

from fedllm.review.gate import Gate
from fedllm.review.version_facts import VersionFacts
from fedllm.tasks.metric import Comparison, Measured
from fedllm.tasks.metrics import METRICS, by_precedence

NAME = "quality"


def measured(facts: VersionFacts) -> Measured:
    """A registered version on the public set."""
    return Measured(facts.metrics, facts.records, facts.answers, facts.metric)


def zero_shot(facts: VersionFacts) -> Measured:
    """The base model on it, before a version's training."""
    return Measured(facts.baseline, facts.records, facts.zero_shot, facts.metric)


def compare(new: Measured, old: Measured) -> Comparison | None:
    """Compare two models by the metric that counts for the new one.

    An older model may not have been measured by it; then by the task's own, which both have.

    Returns:
        None where they have no metric in common, or the new one lacks the metric that is to count for it.
    """
    if new.metric is not None and (new.metric not in METRICS or new.metric not in new.metrics):
        return None
    for metric in by_precedence(new.metric):
        if metric.name in new.metrics and metric.name in old.metrics:
            return metric.compare(new, old)
    return None


def quality(challenger: VersionFacts, champion: VersionFacts | None, allowed_loss: float) -> Gate:
    """Whether a version is good enough to replace the champion; without one, to be used at all.

    Args:
        challenger: the version.
        champion: that it would replace.
        allowed_loss: by how much it may be worse than the champion, in the metric's own unit.
    """
    new = measured(challenger)
    if champion is None:
        found = compare(new, zero_shot(challenger))
        if found is None:
            return Gate(NAME, "fail", "the version has no metric to compare with zero-shot on the public set")
        told = f"{found.words} against zero-shot; there is no champion yet"
        if found.value > 0:
            return Gate(NAME, "pass", told)
        return Gate(NAME, "fail", f"no better than zero-shot: {told}")
    found = compare(new, measured(champion))
    if found is None:
        return Gate(NAME, "fail", f"it has no metric in common with the champion, version {champion.version}")
    told = f"{found.words} against the champion, version {champion.version}"
    if allowed_loss:
        told += f"; a loss of {allowed_loss:g} is allowed"
    if (found.interval.high if found.interval else found.value) < -allowed_loss:
        return Gate(NAME, "fail", f"worse than the champion: {told}")
    if found.value < 0:
        told = f"not shown to be worse, but not shown to be as good either: {told}"
    return Gate(NAME, "pass" if found.interval else "not observable", told)
