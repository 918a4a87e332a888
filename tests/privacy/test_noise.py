"""The source that privacy rests on: its law, and that nothing repeats or seeds it."""

import copy
import multiprocessing
import os
import pickle
import random

import numpy as np
import pytest
import torch
from scipy import stats

from fedllm.privacy.noise import SecureNoise

_MANY = 200_000
_RARE = 1e-6  # a sound source fails a test of this level once in a million runs


def test_normals_have_the_law_that_is_asked_for() -> None:
    drawn = SecureNoise().normal((_MANY,), 2.5)
    assert stats.kstest(drawn.double().numpy(), stats.norm(scale=2.5).cdf).pvalue > _RARE


def test_large_normals_are_as_rare_as_they_should_be() -> None:
    drawn = SecureNoise().normal((1_000_000,), 1.0).abs()
    edges = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    found = [int((drawn > edge).sum()) for edge in edges]
    due = [1_000_000 * 2 * stats.norm.sf(float(edge)) for edge in edges]
    inside = -np.diff([*found, 0])
    assert stats.chisquare(inside, -np.diff([*due, 0])).pvalue > _RARE


def test_normals_do_not_depend_on_their_neighbours() -> None:
    drawn = SecureNoise().normal((_MANY,), 1.0).double()
    half = _MANY // 2
    for left, right in [(drawn[:-1], drawn[1:]), (drawn[:half], drawn[half:])]:
        for power in (1, 2):
            seen = np.corrcoef(left.numpy() ** power, right.numpy() ** power)[0, 1]
            assert abs(seen) < 6 / len(left) ** 0.5


def test_uniforms_fill_the_unit_interval_and_all_53_bits() -> None:
    drawn = SecureNoise().uniform(_MANY)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, stats.uniform.cdf).pvalue > _RARE
    whole = drawn * 2**53
    assert (whole == np.round(whole)).all()
    last = whole.astype(np.uint64) & np.uint64(1)  # the lowest bit is a coin too
    assert stats.binomtest(int(last.sum()), _MANY).pvalue > _RARE


def test_a_normal_takes_every_shape_and_is_rounded_to_fp32_last() -> None:
    source = SecureNoise()
    for shape in [(), (0,), (1,), (3, 5), (1 << 14, 3)]:
        drawn = source.normal(shape, 1.0)
        assert drawn.shape == shape
        assert drawn.dtype == torch.float32
    assert not source.normal((4,), 0.0).any()


def test_a_normal_is_a_sum_of_four_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SecureNoise()
    asked = []
    bits = source._bits  # how much chance goes into one number cannot be seen from outside
    monkeypatch.setattr(source, "_bits", lambda count: asked.append(count) or bits(count))
    source.normal((1000,), 1.0)
    assert sum(asked) == 4 * 1000


def test_two_draws_and_two_sources_never_agree() -> None:
    first, second = SecureNoise(), SecureNoise()
    drawn = [source.normal((64,), 1.0) for source in (first, second) for _ in range(2)]
    assert len({tuple(each.tolist()) for each in drawn}) == len(drawn)


def test_no_seed_reaches_it() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002 - the very thing that must have no effect
        random.seed(7)
        drawn.append(SecureNoise().normal((64,), 1.0))
    assert not torch.equal(*drawn)


def test_it_leaves_other_generators_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    SecureNoise().normal((64,), 1.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.servers
def test_a_forked_process_draws_from_a_key_of_its_own() -> None:
    source = SecureNoise()
    source.uniform(3)  # somewhere inside the stream
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, source.uniform(16).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 16 * 8), dtype=np.float64)
    os.close(reading)
    os.close(writing)
    assert not np.isin(theirs, source.uniform(16)).any()


def _first(queue: "multiprocessing.Queue[list[float]]", source: SecureNoise) -> None:
    queue.put(source.uniform(16).tolist())


@pytest.mark.servers
def test_forked_workers_of_one_pool_differ_from_each_other() -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[float]] = context.Queue()
    source = SecureNoise()
    workers = [context.Process(target=_first, args=(queue, source)) for _ in range(3)]
    for worker in workers:
        worker.start()
    drawn = [number for _ in workers for number in queue.get(timeout=120)]
    for worker in workers:
        worker.join()
    assert len(set(drawn)) == 3 * 16


@pytest.mark.parametrize("twin", [copy.deepcopy, pickle.dumps])
def test_a_key_cannot_be_copied(twin: object) -> None:
    with pytest.raises(TypeError):
        twin(SecureNoise())  # type: ignore[operator]
