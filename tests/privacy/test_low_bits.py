"""A precision-based attack on what is released: at chance now, right every time on the noise before 0.2.

The adversary knows every record but one, and the mechanism. It asks of each number whether the mechanism
could have released it at all, were the record in or out: floating point numbers lie the denser the nearer
they are to zero, so a sum of two of them can be where no sum of two others can (Mironov 2012; Haney et al.
2022, arXiv 2207.13793). The answer under which fewer numbers are impossible is the guess.
"""

from collections.abc import Callable, Sequence
from itertools import cycle, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.privacy.grid import EXACT_IN_FP32, Grid
from fedllm.privacy.noise import SecureNoise
from fedllm.protocol.terms import PrivateTerms
from fedllm.training import dp, site_level
from fedllm.training.learner import Learner
from fedllm.training.passes import Passes
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from fedllm.training.site_level import hide_site
from tests.privacy.former_noise import FormerGrid
from tests.training.learners import learner_and_records

TRIALS = 100
LOW, HIGH = stats.binom.interval(0.99, TRIALS, 0.5)

Array = np.ndarray[Any, np.dtype[np.float64]]
Release = Callable[[Array], Array]  # what becomes of a noised sum in fp32, number by number
GRIDS: dict[str, Any] = {"now": Grid, "before 0.2": FormerGrid}
STEPS = {"now": Grid(1.0, 3.0).step, "before 0.2": 1.0}  # of the sums that become released updates


def around(numbers: Array, most: int) -> list[Array]:
    """The fp32 numbers next to some, so many to each side."""
    middle = numbers.astype(np.float32)
    found, up, down = [middle], middle, middle
    for _ in range(most):
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(-np.inf))
        found += [up, down]
    return found


def impossible(released: Array, total: Array, back: Array, release: Release) -> int:
    """How many numbers cannot be what fp32 noise on `total` leads to.

    Args:
        released: what is seen, (numbers,).
        total: the sum without noise, were the answer right.
        back: about what the noised sum was.
        release: the way from there to what is seen.
    """
    possible = np.zeros(released.shape, dtype=bool)
    exact = total.astype(np.float32)
    for noised in around(back, 2):
        fits = release(noised) == released
        for noise in around(noised.astype(np.float64) - exact, 2):
            possible |= fits & (exact + noise == noised)
    return int((~possible).sum())


def guess(released: Array, totals: Sequence[Array], back: Array, release: Release) -> int:
    """Which of two sums was noised."""
    return more_likely(*(impossible(released, total, back, release) for total in totals))


def more_likely(out: int, in_: int) -> int:
    """The answer under which fewer numbers are impossible; a coin where the numbers do not say."""
    return int(in_ < out) if in_ != out else int(np.random.default_rng().integers(2))


def flat(parts: Sequence[torch.Tensor]) -> Array:
    return torch.cat([part.flatten().double() for part in parts]).numpy()


def verdict(grid: str, right: int) -> None:
    """At chance now; always right before."""
    if grid == "now":
        assert LOW <= right <= HIGH
    else:
        assert right == TRIALS


def unchanged(noised: Array) -> Array:
    return noised.astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_noised_sum_does_not_tell_whether_a_record_is_in_it(grid: str) -> None:
    # 127 other records, 36,864 numbers, sigma 20: epsilon is 0.16 at delta 1e-5.
    chance = torch.Generator().manual_seed(3)
    others, one = torch.randn(127, 36_864, generator=chance), torch.randn(1, 36_864, generator=chance)
    mechanism, source = GRIDS[grid](1.0, 20.0), SecureNoise()
    sums = [mechanism.sum_clipped([others]), mechanism.sum_clipped([torch.cat([others, one])])]
    step = mechanism.step if isinstance(mechanism, Grid) else 1.0
    totals = [step * flat(each) for each in sums]
    right = 0
    for trial in range(TRIALS):
        released = unchanged(flat(mechanism.hide(sums[trial % 2], source)))
        right += guess(released, totals, released.astype(np.float64), unchanged) == trial % 2
    verdict(grid, right)


class Drawn(SecureNoise):
    """Draws the same others in every run, at the mechanism's rate, and the adversary's record always."""

    def __init__(self, others: int, rate: float) -> None:
        super().__init__()
        self.others = super().chosen(others, rate)

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        del probability
        return np.concatenate([self.others, np.ones(count - len(self.others), dtype=np.bool_)])


class Setting(NamedTuple):
    """What is trained, on which units, drawn at which rate."""

    learner: str
    unit: Literal["record", "person"]
    rate: float


SETTINGS = {
    "an LLM's records": Setting("ffa-lora", "record", 1.0),
    "an LLM's persons": Setting("ffa-lora", "person", 0.5),
    "a CNN's records": Setting("cnn", "record", 0.5),
    "a CNN's persons": Setting("cnn", "person", 1.0),
}
LOCAL = LocalConfig(optimizer="sgd", lr=0.5, steps=1, batch_size=3, precision="fp32")


def exact_sums(learner: Learner, units: Sequence[Sequence[Record]], grid: str) -> list[torch.Tensor]:
    """What the mechanism's noise is added to."""
    engine = accelerator("fp32")
    with per_example_gradients(learner, engine) as gradients:
        examples = [learner.encode(unit) for unit in units]
        passes = Passes(learner, gradients, engine)
        return dp.clipped_sums(learner, passes, examples, GRIDS[grid](1.0, 3.0))


class Neighbours(NamedTuple):
    """Two neighbouring data sets, without and with the adversary's record, and what a step draws of each."""

    learner: Learner
    terms: PrivateTerms
    held: list[list[Record]]
    drawn: Drawn
    taken: list[list[list[Record]]]  # units


def neighbours(setting: Setting) -> Neighbours:
    kind, unit, rate = setting
    terms = PrivateTerms(unit, rate, 3.0, 1.0, "who" if unit == "person" else None, 1000)
    learner, some = learner_and_records(kind)
    others = [{**record, "who": f"{record['id']} {copy}"} for copy in range(16) for record in some]
    held = [others, [*others, {**some[0], "who": "me"}]]
    drawn = Drawn(len(others), rate)
    taken = [[[rows[i]] for i in np.flatnonzero(drawn.chosen(len(rows), rate))] for rows in held]
    return Neighbours(learner, terms, held, drawn, taken)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_released_update_of_one_step_does_not_tell_it(
    grid: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp, "Grid", GRIDS[grid])
    learner, terms, held, drawn, taken = neighbours(SETTINGS[setting])
    start = learner.shared.read()
    sums = [exact_sums(learner, units, grid) for units in taken]
    totals = [STEPS[grid] * flat(each) for each in sums]
    # Gradients are the same in every trial: they are not computed again.
    in_turn = cycle(sums)
    monkeypatch.setattr(dp, "clipped_sums", lambda *_: next(in_turn))
    first = start.numpy()

    def release(noised: Array) -> Array:
        moved = first - np.float32(0.5) * (noised.astype(np.float32) / np.float32(3))
        return moved - first

    right = 0
    for trial in range(TRIALS):
        learner.shared.write(start)
        dp.train_privately(
            learner, held[trial % 2], LOCAL, terms, steps=1, round_number=1, rounds=1, noise=drawn
        )
        update = (learner.shared.read() - start).numpy()
        right += guess(update, totals, update.astype(np.float64) * (-3 / 0.5), release) == trial % 2
    verdict(grid, right)


@pytest.mark.sweep
@pytest.mark.slow("every trial trains, and is attacked by gradients of its own")
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_update_of_several_steps_does_not_tell_it_to_whoever_saw_each(
    grid: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Epsilon is counted as if the adversary saw the weights after every step: this one does.
    monkeypatch.setattr(dp, "Grid", GRIDS[grid])
    learner, terms, held, drawn, taken = neighbours(SETTINGS[setting])
    start, sums, weights = learner.shared.read(), dp.clipped_sums, list[torch.Tensor]()

    def watched(*arguments: Any) -> list[torch.Tensor]:  # noqa: ANN401 - as the original's
        weights.append(learner.shared.read())
        return sums(*arguments)

    right = 0
    for trial in range(TRIALS):
        learner.shared.write(start)
        weights.clear()
        with monkeypatch.context() as patch:
            patch.setattr(dp, "clipped_sums", watched)
            dp.train_privately(
                learner, held[trial % 2], LOCAL, terms, steps=3, round_number=1, rounds=1, noise=drawn
            )
        weights.append(learner.shared.read())
        counts = [0, 0]
        for before, after in pairwise(weights):
            learner.shared.write(before)
            reached, first = after.numpy(), before.numpy()

            def release(noised: Array, first: Array = first) -> Array:
                return first - np.float32(0.5) * (noised.astype(np.float32) / np.float32(3))

            back = (reached.astype(np.float64) - first) * (-3 / 0.5)
            for answer, units in enumerate(taken):
                total = STEPS[grid] * flat(exact_sums(learner, units, grid))
                counts[answer] += impossible(reached, total, back, release)
        right += more_likely(*counts) == trial % 2
    verdict(grid, right)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_sites_own_update_does_not_tell_what_it_was(grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_level, "Grid", GRIDS[grid])
    terms = PrivateTerms("site", 1.0, 4.0, 1.0, min_honest=4)  # two for this one
    chance = torch.Generator().manual_seed(3)
    updates = [0.5 * torch.randn(36_864, generator=chance) for _ in range(2)]
    mechanism = GRIDS[grid](1.0, 2.0, EXACT_IN_FP32)
    step = mechanism.step if isinstance(mechanism, Grid) else 1.0
    totals = [step * flat(mechanism.sum_clipped([update[None]])) for update in updates]
    right = 0
    for trial in range(TRIALS):
        released = hide_site(updates[trial % 2], terms).numpy()
        right += guess(released, totals, released.astype(np.float64), unchanged) == trial % 2
    verdict(grid, right)
