import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedllm.aggregation import weight
from fedllm.aggregation.mean import weighted_mean
from fedllm.errors import RefusedError

Update = tuple[int, torch.Tensor]

values = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5)
sites = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.tuples(st.integers(1, 10_000), values),
    min_size=1,
    max_size=6,
)


def test_the_mean_is_weighted_by_hand() -> None:
    mean = weighted_mean([(1, torch.tensor([1.0, 0.0])), (3, torch.tensor([5.0, -4.0]))])
    assert mean.dtype == torch.float32
    assert mean.tolist() == [4.0, -3.0]  # (1*1 + 3*5) / 4, (0 - 12) / 4


def test_one_site_is_returned_unchanged_whatever_its_weight() -> None:
    update = torch.tensor([0.1, -3.7e-12, 2.5e8])
    for chosen in (1, 16, 2**20):
        assert torch.equal(weighted_mean([(chosen, update)]), update)


@settings(deadline=None)
@given(sites, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_once_sorted(
    held: dict[str, tuple[int, list[float]]], random: object
) -> None:
    arrived = list(held)
    random.shuffle(arrived)  # type: ignore[attr-defined]
    one = weighted_mean((held[name][0], torch.tensor(held[name][1])) for name in sorted(held))
    other = weighted_mean((held[name][0], torch.tensor(held[name][1])) for name in sorted(arrived))
    assert torch.equal(one, other)


@settings(deadline=None)
@given(sites)
def test_it_agrees_with_numpy_in_float64(held: dict[str, tuple[int, list[float]]]) -> None:
    weights = np.array([w for w, _ in held.values()], dtype=np.float64)
    matrix = np.array([u for _, u in held.values()], dtype=np.float32).astype(np.float64)
    expected = np.average(matrix, axis=0, weights=weights)
    mean = weighted_mean((w, torch.tensor(u)) for w, u in held.values())
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-6, atol=1e-12)


@settings(deadline=None)
@given(sites, st.sampled_from([-2.0, 0.5, 4.0]))
def test_scaling_every_update_scales_the_mean(
    held: dict[str, tuple[int, list[float]]], factor: float
) -> None:
    mean = weighted_mean((w, torch.tensor(u)) for w, u in held.values())
    scaled = weighted_mean((w, torch.tensor(u) * factor) for w, u in held.values())
    torch.testing.assert_close(scaled, mean * factor, rtol=1e-6, atol=1e-30)


def test_a_sum_that_float32_would_lose_is_kept() -> None:
    mean = weighted_mean([(1, torch.tensor([1e8])), (1, torch.tensor([1.0])), (1, torch.tensor([-1e8]))])
    assert mean.item() == pytest.approx(1 / 3, rel=1e-6)


def test_it_holds_one_update_at_a_time() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for number in range(6):
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            fresh = torch.full((1000,), float(number))
            alive.append(weakref.ref(fresh))
            pair = (1, fresh)
            del fresh
            yield pair
            del pair

    gc.freeze()  # to collect what the test made is quick, all that was imported before is not
    try:
        assert weighted_mean(updates())[0].item() == 2.5
    finally:
        gc.unfreeze()
    assert len(alive) == 6
    assert most <= 1


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([], "no update"),
        ([(0, torch.ones(2)), (0, torch.ones(2))], "sum to zero"),
        ([(1, torch.ones(2)), (1, torch.ones(3))], "update 1 has 3 values"),
        ([(1, torch.ones(2, 2))], "expected flat float32"),
        ([(1, torch.ones(2, dtype=torch.float64))], "expected flat float32"),
        ([(-1, torch.ones(2))], "weights are integers"),
        ([(True, torch.ones(2))], "weights are integers"),
        ([(1.5, torch.ones(2))], "weights are integers"),
    ],
)
def test_what_cannot_be_averaged_is_refused(updates: list[Update], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        weighted_mean(updates)


def test_weights_by_examples_and_equal_are_as_planned_and_work_counts_steps() -> None:
    assert weight("examples", 2985, 7) == 2985
    assert weight("equal", 1, 7) == 1
    assert weight("work", 16, 7) == 112


def test_an_update_that_would_count_for_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match="have weight 0"):
        weight("work", 16, 0)
