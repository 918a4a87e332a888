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


def test_gaussians_are_whole_numbers_of_the_scale_asked_for() -> None:
    drawn = SecureNoise().gaussian(_MANY, 1000.0)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (_MANY,)
    assert stats.kstest(drawn.numpy() / 1000, stats.norm.cdf).pvalue > _RARE


@pytest.mark.parametrize("probability", [1e-3, 0.25, 1 / 3, 0.999, 1.0])
def test_events_are_as_likely_as_is_asked_for(probability: float) -> None:
    happened = SecureNoise().chosen(_MANY, probability)
    assert happened.dtype == np.bool_
    assert stats.binomtest(int(happened.sum()), _MANY, probability).pvalue > _RARE


def test_an_events_probability_is_exact_to_its_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SecureNoise()
    probability = 2.0**-40 + 2.0**-70  # 2^24 words and a 64th of one
    words = np.array([2**24 - 1, 2**24, 2**24, 2**24 + 1], dtype=np.uint64)
    left = iter([2.0**-6 - 2.0**-53, 2.0**-6])
    monkeypatch.setattr(source, "_words", lambda _: words)  # a tie comes once in 2^64 draws
    monkeypatch.setattr(source, "uniform", lambda _: np.array([next(left)]))
    assert source.chosen(4, probability).tolist() == [True, True, False, False]


def test_two_draws_and_two_sources_never_agree() -> None:
    first, second = SecureNoise(), SecureNoise()
    drawn = [source.gaussian(64, 1e6) for source in (first, second) for _ in range(2)]
    assert len({tuple(each.tolist()) for each in drawn}) == len(drawn)


def test_no_seed_reaches_it() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002 - the very thing that must have no effect
        random.seed(7)
        drawn.append(SecureNoise().gaussian(64, 1e6))
    assert not torch.equal(*drawn)


def test_it_leaves_other_generators_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    SecureNoise().gaussian(64, 1e6)
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
