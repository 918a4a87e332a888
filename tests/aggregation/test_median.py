"""The median by coordinate: numpy's where weights are equal, the same bytes in any order, in blocks."""

import gc
import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedllm.aggregation.median as of_blocks
from fedllm.aggregation import COMBINES, combined
from fedllm.aggregation.mean import weighted_mean
from fedllm.aggregation.median import weighted_median
from fedllm.errors import RefusedError

Update = tuple[int, torch.Tensor]

rows = st.integers(1, 9).flatmap(
    lambda count: st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4), min_size=count, max_size=count
    )
)


@settings(deadline=None)
@given(rows, st.sampled_from([1, 7, 2**40]))
def test_with_equal_weights_it_is_numpys_median(values: list[list[float]], weight: int) -> None:
    median = weighted_median((weight, torch.tensor(row)) for row in values)
    expected = np.median(np.array(values, dtype=np.float64), axis=0).astype(np.float32)
    assert median.dtype == torch.float32
    assert median.tolist() == expected.tolist()


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.lists(st.integers(-3, 3), min_size=3, max_size=3)),
        min_size=1,
        max_size=6,
    ).filter(lambda held: any(weight for weight, _ in held))
)
def test_a_weight_counts_as_so_many_equal_updates(held: list[tuple[int, list[int]]]) -> None:
    repeated = [row for weight, row in held for _ in range(weight)]
    median = weighted_median((weight, torch.tensor(row, dtype=torch.float32)) for weight, row in held)
    assert median.tolist() == np.median(np.array(repeated, dtype=np.float64), axis=0).tolist()


def test_where_weights_are_exactly_half_it_is_the_mean_of_both_neighbours_by_hand() -> None:
    def median(*held: tuple[int, float]) -> float:
        return float(weighted_median((weight, torch.tensor([value])) for weight, value in held))

    assert median((1, 1.0), (2, 5.0), (1, 9.0)) == 5.0  # 1 of 4 below, 1 above
    assert median((2, 1.0), (1, 5.0), (1, 9.0)) == 3.0  # exactly half is at 1: (1 + 5) / 2
    assert median((3, 1.0), (1, 5.0), (1, 9.0)) == 1.0  # more than half is at 1
    assert median((2, 1.0), (0, 5.0), (2, 9.0)) == 5.0  # (1 + 9) / 2: a weight of 0 has no part
    assert median((2**53, 1.0), (2**53 - 1, 5.0)) == 1.0  # one more than half, which float64 would not see


def test_any_order_of_arrival_gives_the_same_bytes_also_of_the_two_zeros() -> None:
    held = [(1, [0.0, 3.0]), (1, [-0.0, 3.0]), (2, [0.0, -7.5]), (1, [-0.0, 1e-40])]
    seen = {
        weighted_median((weight, torch.tensor(row)) for weight, row in order).numpy().tobytes()
        for order in itertools.permutations(held)
    }
    assert len(seen) == 1


def test_blocks_of_coordinates_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    updates = [(number + 1, torch.randn(1003)) for number in range(7)]
    whole = weighted_median(updates)
    monkeypatch.setattr(of_blocks, "_BLOCK", 7 * 10)
    assert torch.equal(weighted_median(updates), whole)


def test_it_holds_one_update_at_a_time_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def updates() -> Iterator[Update]:
        nonlocal most
        for number in range(6):
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))
            assert not list(tmp_path.iterdir())  # what it has spilled has no name
            fresh = torch.full((1000,), float(number))
            alive.append(weakref.ref(fresh))
            pair = (1, fresh)
            del fresh
            yield pair
            del pair

    gc.freeze()  # to collect what the test made is quick, all that was imported before is not
    try:
        assert weighted_median(updates())[0].item() == 2.5
    finally:
        gc.unfreeze()
    assert len(alive) == 6
    assert most <= 1


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([], "no update"),
        ([(0, torch.ones(2)), (0, torch.ones(2))], "weights sum to 0"),
        ([(2**53, torch.ones(2))] * 512, "a sum from 1 to"),
        ([(1, torch.ones(2)), (1, torch.ones(3))], "update 1 has 3 values"),
        ([(1, torch.ones(2, 2))], "expected flat float32"),
        ([(-1, torch.ones(2))], "weights are integers"),
    ],
)
def test_what_has_no_median_is_refused(updates: list[Update], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        weighted_median(updates)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), st.floats(-1e6, 1e6, width=32))
def test_one_liar_among_five_cannot_leave_the_range_of_the_honest(honest: list[float], lie: float) -> None:
    median = float(weighted_median((1, torch.tensor([value])) for value in [*honest, lie]))
    assert min(honest) <= median <= max(honest)


def test_a_combination_is_chosen_by_its_name_and_a_median_takes_no_denominator() -> None:
    updates = [(1, torch.tensor([1.0])), (1, torch.tensor([2.0])), (2, torch.tensor([6.0]))]
    assert combined("mean", updates).item() == weighted_mean(updates).item() == 3.75
    assert combined("mean", updates, 5).item() == 3.0
    assert combined("median", updates).item() == 4.0
    with pytest.raises(RefusedError, match="a median takes no denominator"):
        combined("median", updates, 5)


def test_what_depends_on_the_weighted_sum_alone_says_that_it_needs_no_single_updates() -> None:
    one = [(1, torch.tensor([0.0])), (1, torch.tensor([2.0])), (2, torch.tensor([5.0]))]
    other = [(1, torch.tensor([4.0])), (1, torch.tensor([4.0])), (2, torch.tensor([2.0]))]  # 12 of 4 as well
    for name, combine in COMBINES.items():
        assert torch.equal(combined(name, one), combined(name, other)) != combine.needs_single_updates
