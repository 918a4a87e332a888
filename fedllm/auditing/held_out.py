"""Run a membership attack on a model that was trained on one half of a site's records."""

import random
import secrets
from collections.abc import Callable, Sequence

from fedllm.auditing.gradient_canaries import readable
from fedllm.auditing.membership import MembershipReport, membership
from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.errors import DataError
from fedllm.protocol.terms import PrivateTerms
from fedllm.training.dp import train_privately
from fedllm.training.evaluate import losses
from fedllm.training.learner import Learner
from fedllm.training.local import train

_JUDGED = 2000  # largest number of records per side that are scored

_chance = random.SystemRandom()


def attack_membership(  # noqa: PLR0913 - a training's terms, each named by the caller
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig,
    terms: PrivateTerms | None,
    *,
    rounds: int,
    unit_field: str | None = None,
    progress: Callable[[int, int], None] = lambda _step, _steps: None,
) -> MembershipReport:
    """Train on a random half, and guess its members by how far each record's loss fell.

    The training holds no canary. Restores the shared part on exit.

    Args:
        learner: the model before the training, which is the attack's reference, and its task.
        records: the site's own.
        local: of the training.
        terms: of the training; None trains without DP.
        rounds: number of rounds, played at this site alone.
        unit_field: the field that names a person; all records of a person are on one side.
        progress: called after every step with (step, steps) of all rounds.

    Returns:
        How well the attack tells members from the held-out half.

    Raises:
        DataError: There are fewer than two units, or the task cannot read a record.
    """
    sides = _halves(records, unit_field)
    scored = [readable(learner, _chance.sample(side, len(side)), _JUDGED) for side in sides]
    shared = learner.shared.read()
    before = [losses(learner, side) for side in scored]
    try:
        for number in range(1, rounds + 1):
            done = (number - 1) * local.steps

            def after_step(step: int, steps: int, done: int = done) -> None:
                progress(done + step, rounds * steps)

            _train_round(learner, sides[0], local, terms, number, rounds, after_step)
        after = [losses(learner, side) for side in scored]
    finally:
        learner.shared.write(shared)
    drops = [[old - new for old, new in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
    return membership(*drops)


def _train_round(  # noqa: PLR0913, PLR0917 - a round's terms
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig,
    terms: PrivateTerms | None,
    number: int,
    rounds: int,
    progress: Callable[[int, int], None],
) -> None:
    steps = local.steps
    if terms is not None:
        train_privately(
            learner,
            records,
            local,
            terms,
            steps=steps,
            round_number=number,
            rounds=rounds,
            progress=progress,
        )
        return
    train(
        learner,
        records,
        local,
        steps=steps,
        round_number=number,
        rounds=rounds,
        seed=secrets.randbits(32),
        progress=progress,
    )


def _halves(records: Sequence[Record], unit_field: str | None) -> tuple[list[Record], list[Record]]:
    """Split units at random into two sides of equal size; of an odd number, the first gets one more."""
    units: dict[str, list[Record]] = {}
    for number, record in enumerate(records):
        name = f"#{number}" if unit_field is None else record.get(unit_field, f"#{number}")
        units.setdefault(name, []).append(record)
    order = list(units.values())
    if len(order) < 2:  # noqa: PLR2004 - one to train on, one to hold out
        raise DataError("membership needs at least two units: one to train on, and one to hold out")
    _chance.shuffle(order)
    half = (len(order) + 1) // 2
    return [one for unit in order[:half] for one in unit], [one for unit in order[half:] for one in unit]
