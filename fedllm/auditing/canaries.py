"""Units that are in a training or not by a coin, so that what it releases can be asked about the coins.

For a training that is meant for this alone: canaries push as hard as the clip allows, so the model is worth
nothing afterwards and is thrown away.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from fedllm.auditing.gradient_canaries import GradientCanaries, own_unit
from fedllm.auditing.one_run import CONFIDENCE, OneRunAudit, audit_one_run
from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.errors import TrainingError
from fedllm.privacy.noise import NoiseSource
from fedllm.protocol.terms import PrivateTerms
from fedllm.tasks.causal import CausalLearner
from fedllm.training.dp import train_privately
from fedllm.training.evaluate import losses
from fedllm.training.learner import Learner

Kind = Literal["gradient", "text"]

GUESSED = 0.5  # share of the canaries: a quarter in, a quarter out, none of those in the middle
_WORDS = 16  # tokens of a text canary

_chance = secrets.SystemRandom()


class Canaries(Protocol):
    """One kind of canary on one model."""

    learner: Learner  # knows the canaries beside its own records
    records: Sequence[Record]  # one a canary, each a unit of its own

    def begin(self, number: int, rounds: int) -> None:
        """Be told that a round begins, from 1."""

    def observe(self, step: int) -> None:
        """Be told that a step was done, from 1."""

    def scores(self) -> list[float]:
        """One a canary, computed from what the training released; higher speaks for being in."""


def audit_training(  # noqa: PLR0913 - a training's terms, each named by the caller
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig,
    terms: PrivateTerms,
    *,
    rounds: int,
    claim: float,
    delta: float,
    count: int,
    kind: Kind = "gradient",
    noise: NoiseSource | None = None,
    confidence: float = CONFIDENCE,
    progress: Callable[[int, int], None] = lambda _step, _steps: None,
) -> OneRunAudit:
    """Train with canaries by a plan's own terms and code, and hold its claim against what can be guessed.

    The adversary is the one that the accounting assumes: it sees every step, and all records but the canaries
    are fixed. The shared part is put back as it was.

    Args:
        learner: the model and its task.
        records: the site's own.
        local: of the training.
        terms: of the training.
        rounds: that are played, one after the other at this site alone.
        claim: the epsilon that is claimed for all of it.
        delta: of the claim.
        count: canaries.
        kind: `gradient` on any model with linear layers, `text` where records are texts.
        noise: the source of the training's noise; a fresh cryptographic one if it is not given.
        confidence: of the lower bound.
        progress: called after every step with (step, steps) of all rounds.

    Raises:
        DataError: no records, or one that the task cannot read.
        TrainingError: the model has no place for so many canaries, or the task none for texts.
    """
    before = learner.shared.read()
    canaries: Canaries
    if kind == "text":
        canaries = TextCanaries(learner, terms, count)
    else:
        canaries = GradientCanaries(learner, records, local, terms, count)
    included = [bool(secrets.randbits(1)) for _ in range(count)]
    present = [record for record, inside in zip(canaries.records, included, strict=True) if inside]
    try:
        for number in range(1, rounds + 1):
            done = (number - 1) * local.steps
            canaries.begin(number, rounds)

            def told(step: int, steps: int, done: int = done) -> None:
                canaries.observe(step)
                progress(done + step, rounds * steps)

            train_privately(
                canaries.learner,
                [*records, *present],
                local,
                terms,
                steps=local.steps,
                round_number=number,
                rounds=rounds,
                progress=told,
                noise=noise,
            )
        scores = canaries.scores()
    finally:
        learner.shared.write(before)
    return audit_one_run(
        scores,
        included,
        guesses=int(count * GUESSED),
        claim=claim,
        delta=delta,
        confidence=confidence,
    )


class TextCanaries:
    """Records of random tokens with random answers, scored by how far their loss fell in all."""

    def __init__(self, learner: Learner, terms: PrivateTerms, count: int) -> None:
        if not isinstance(learner, CausalLearner):
            raise TrainingError("text canaries need a task on texts: use gradient canaries")
        self.learner: Learner = learner
        self.records: Sequence[Record] = [
            own_unit(_random_record(learner), terms, number) for number in range(count)
        ]
        self._before = losses(learner, learner.encode(self.records))

    def begin(self, number: int, rounds: int) -> None:
        """Nothing is looked at before the end."""

    def observe(self, step: int) -> None:
        """Nothing is looked at before the end."""

    def scores(self) -> list[float]:
        """Loss before the training minus loss after it."""
        after = losses(self.learner, self.learner.encode(self.records))
        return [old - new for old, new in zip(self._before, after, strict=True)]


def _random_record(learner: CausalLearner) -> dict[str, str]:
    """A record that nobody would write."""
    tokenizer, task = learner.tokenizer, learner.task
    special = set(tokenizer.all_special_ids)
    known = [token for token in range(len(tokenizer)) if token not in special]
    record = {}
    for name, key in task.fields.items():
        if name == "label":
            record[key] = _chance.choice(list(task.labels))
        else:
            record[key] = tokenizer.decode(_chance.choices(known, k=_WORDS))
    return record
