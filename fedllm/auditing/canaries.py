"""Audit a training with canaries: units that a coin includes or not, and that its outputs may reveal.

The training serves the audit alone: canaries push as hard as the clip allows, so the model is useless
afterwards and is discarded.
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

GUESSED = 0.5  # share of canaries that are guessed: the top quarter in, the bottom quarter out
_WORDS = 16  # tokens of a text canary

_chance = secrets.SystemRandom()


class Canaries(Protocol):
    """One kind of canary on one model."""

    learner: Learner  # handles the canaries besides its own records
    records: Sequence[Record]  # one per canary, each its own unit

    def begin(self, number: int, rounds: int) -> None:
        """Start a round, counted from 1."""

    def observe(self, step: int) -> None:
        """Look at the shared part after a step, counted from 1."""

    def scores(self) -> list[float]:
        """Return one score per canary, from what the training released; higher means more likely included."""


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
    """Train with canaries by a plan's own terms and code, and test its claim by guessing who was included.

    The adversary is the one that the accounting assumes: it sees every step, and all records but the canaries
    are fixed. Restores the shared part on exit.

    Args:
        learner: the model and its task.
        records: the site's own.
        local: of the training.
        terms: of the training.
        rounds: number of rounds, played at this site alone.
        claim: the epsilon that is claimed for the whole training.
        delta: of the claim.
        count: number of canaries.
        kind: `gradient` for any model with linear layers, `text` for tasks on texts.
        noise: the source of the training's noise; default: a fresh cryptographic one.
        confidence: of the lower bound.
        progress: called after every step with (step, steps) of all rounds.

    Returns:
        The lower bound and its verdict.

    Raises:
        DataError: There are no records, or the task cannot read one.
        TrainingError: The model has too few weights for the canaries, or text canaries meet another task.
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

            def after_step(step: int, steps: int, done: int = done) -> None:
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
                progress=after_step,
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
    """Records of random tokens with random answers, scored by how far their loss fell over the training."""

    def __init__(self, learner: Learner, terms: PrivateTerms, count: int) -> None:
        if not isinstance(learner, CausalLearner):
            raise TrainingError("text canaries need a task on texts: use gradient canaries")
        self.learner: Learner = learner
        self.records: Sequence[Record] = [
            own_unit(_random_record(learner), terms, number) for number in range(count)
        ]
        self._before = losses(learner, learner.encode(self.records))

    def begin(self, number: int, rounds: int) -> None:
        """Do nothing: only the losses before and after the training count."""

    def observe(self, step: int) -> None:
        """Do nothing: only the losses before and after the training count."""

    def scores(self) -> list[float]:
        """Return each canary's loss before the training minus its loss after it."""
        after = losses(self.learner, self.learner.encode(self.records))
        return [old - new for old, new in zip(self._before, after, strict=True)]


def _random_record(learner: CausalLearner) -> dict[str, str]:
    """Return a record of random tokens with a random label."""
    tokenizer, task = learner.tokenizer, learner.task
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    record = {}
    for name, key in task.fields.items():
        if name == "label":
            record[key] = _chance.choice(list(task.labels))
        else:
            record[key] = tokenizer.decode(_chance.choices(ordinary, k=_WORDS))
    return record
