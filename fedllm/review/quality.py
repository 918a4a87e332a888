"""The quality gate: a challenger against the champion on the public set, in pairs where both kept answers."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedllm.review.gate import Gate
from fedllm.review.version_facts import VersionFacts
from fedllm.training.intervals import Difference, count_pairs, mcnemar, paired, paired_mean, unpaired
from fedllm.training.public_answers import PublicAnswers

NAME = "quality"


@dataclass(frozen=True)
class Measured:
    """One model on the public set."""

    metrics: Mapping[str, float]
    records: int | None
    answers: PublicAnswers | None

    @classmethod
    def of(cls, facts: VersionFacts) -> "Measured":
        """A registered version."""
        return cls(facts.metrics, facts.records, facts.answers)

    @classmethod
    def zero_shot(cls, facts: VersionFacts) -> "Measured":
        """The base model, as it was measured before a version's training."""
        return cls(facts.baseline, facts.records, facts.zero_shot)


@dataclass(frozen=True)
class Comparison:
    """How much better one model is than another: accuracy gained, or loss saved; both in their own unit."""

    metric: str  # accuracy or loss
    value: float
    interval: Difference | None  # None: it cannot be told from what MLflow holds
    how: str  # by which method, from what

    @property
    def words(self) -> str:
        """`+1.2 points (95 %: -0.4 to +2.9; …)`."""
        scale, unit = (100, "points of accuracy") if self.metric == "accuracy" else (1, "of loss saved")
        digits = 1 if self.metric == "accuracy" else 4

        def shown(number: float) -> str:
            return f"{scale * number:+.{digits}f}"

        within = (
            f"95 %: {shown(self.interval.low)} to {shown(self.interval.high)}; "
            if self.interval is not None
            else "no interval; "
        )
        return f"{shown(self.value)} {unit} ({within}{self.how})"


def compare(new: Measured, old: Measured) -> Comparison | None:
    """Compare two models; None where they have no metric in common."""
    if "accuracy" in new.metrics and "accuracy" in old.metrics:
        return _accuracy(new, old)
    if "loss" in new.metrics and "loss" in old.metrics:
        return _loss(new, old)
    return None


def quality(challenger: VersionFacts, champion: VersionFacts | None, allowed_loss: float) -> Gate:
    """Whether a version is good enough to replace the champion; without one, to be used at all.

    Args:
        challenger: the version.
        champion: that it would replace.
        allowed_loss: by how much it may be worse than the champion: accuracy (0 to 1), or loss.
    """
    new = Measured.of(challenger)
    if champion is None:
        found = compare(new, Measured.zero_shot(challenger))
        if found is None:
            return Gate(NAME, "fail", "the version does not say how it did on the public set, and zero-shot")
        told = f"{found.words} against zero-shot; there is no champion yet"
        if found.value > 0:
            return Gate(NAME, "pass", told)
        return Gate(NAME, "fail", f"no better than zero-shot: {told}")
    found = compare(new, Measured.of(champion))
    if found is None:
        return Gate(NAME, "fail", f"it has no metric in common with the champion, version {champion.version}")
    told = f"{found.words} against the champion, version {champion.version}"
    if allowed_loss:
        told += f"; {allowed_loss:g} may be lost"
    if (found.interval.high if found.interval else found.value) < -allowed_loss:
        return Gate(NAME, "fail", f"worse than the champion: {told}")
    if found.value < 0:
        told = f"not shown to be worse, which is not the same as good: {told}"
    return Gate(NAME, "pass" if found.interval else "not observable", told)


def _accuracy(new: Measured, old: Measured) -> Comparison:
    value = new.metrics["accuracy"] - old.metrics["accuracy"]
    why = _unpairable(new.answers, old.answers)
    if new.answers and old.answers and not why:
        mine, theirs = new.answers.judged, old.answers.judged
        if mine is not None and theirs is not None:
            pairs = count_pairs(mine, theirs)
            how = (
                f"paired on {pairs.records} records, Newcombe 1998; right where the other was wrong: "
                f"{pairs.first} and {pairs.second}, exact McNemar p = {mcnemar(pairs):.2g}"
            )
            found = paired(pairs)
            return Comparison("accuracy", found.value, found, how)
        why = "answers are not on record"
    if new.records is None or old.records is None:
        return Comparison("accuracy", value, None, "on how many records one was measured is not on record")
    right = [round(one.metrics["accuracy"] * records) for one, records in _with_records(new, old)]
    how = f"not paired, for {why}: on {new.records} and {old.records} records, Newcombe 1998"
    return Comparison("accuracy", value, unpaired(right[0], new.records, right[1], old.records), how)


def _with_records(*measured: Measured) -> list[tuple[Measured, int]]:
    return [(one, one.records) for one in measured if one.records is not None]


def _loss(new: Measured, old: Measured) -> Comparison:
    value = old.metrics["loss"] - new.metrics["loss"]
    why = _unpairable(new.answers, old.answers)
    if new.answers and old.answers and not why:
        mine, theirs = new.answers.losses, old.answers.losses
        if mine is not None and theirs is not None:
            found = paired_mean([b - a for a, b in zip(mine, theirs, strict=True)])
            how = f"paired on {len(mine)} records, Student's t"
            return Comparison("loss", found.value, found, how)
        why = "single losses are not on record"
    return Comparison("loss", value, None, f"not paired, for {why}")


def _unpairable(new: PublicAnswers | None, old: PublicAnswers | None) -> str:
    """Why two models cannot be compared record by record; empty where they can."""
    if new is None or old is None:
        return "answers are not on record"
    if new.public_sha256 != old.public_sha256:
        return "they were measured on different public sets"
    return ""
