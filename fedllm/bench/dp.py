"""Measure the time that privacy costs: steps with DP-SGD against the same steps without it."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from fedllm.config import FederationConfig
from fedllm.data.prepare import cached_data
from fedllm.data.records import Record, read_records
from fedllm.models.base import resolve_base
from fedllm.protocol.terms import PrivateTerms
from fedllm.tasks.load import load_learner
from fedllm.training.batches import draw
from fedllm.training.dp import train_privately
from fedllm.training.learner import Learner
from fedllm.training.local import train

SCHEMA = "fedllm.bench.dp/1"
_STEPS = 3  # per measurement


@dataclass(frozen=True)
class _Timed:
    """Seconds per step on one logical batch."""

    dp: float
    plain: float


def bench_dp(config: FederationConfig, pairs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Time training with and without DP in turns, on the same model and records, each in its micro-batches.

    A measurement is 3 steps on one logical batch of the simulated sites' records. Every step uses every
    record: without DP the batch is the whole data, with DP the sampling rate is 1.

    Args:
        config: its base, adapter, task, optimizer and `local.batch_size`; not its privacy.
        pairs: number of pairs of measurements, each on its own batch.
        say: receives a line per pair.

    Returns:
        `{"schema", "ratio", "records_per_second": {"dp", "plain"}, "seconds": {"dp", "plain"}, "pairs",
        "batch_size", "trained", "threads"}`: ratio is the median over pairs of DP's speed over the plain
        speed, seconds are medians per step, and trained is the number of trained parameters.
    """
    if config.simulation is not None:
        torch.set_num_threads(config.simulation.threads)
    model = config.model
    learner = load_learner(resolve_base(model.base), model.adapter, config.seed, config.task)
    records = [record for path in cached_data(config).sites.values() for record in read_records(path)]
    size = config.local.batch_size
    timed = []
    for number, rows in enumerate(draw(len(records), size, pairs + 1, (config.seed, 1))):
        pair = _pair(learner, [records[i] for i in rows], config, dp_first=number % 2 == 0)
        if number:  # the first pair warms up
            timed.append(pair)
            say(f"pair {number}: {pair.dp:.3f} s per step with DP, {pair.plain:.3f} s without")
    seconds = {"dp": median(pair.dp for pair in timed), "plain": median(pair.plain for pair in timed)}
    return {
        "schema": SCHEMA,
        "ratio": round(median(pair.plain / pair.dp for pair in timed), 4),
        "records_per_second": {name: round(size / duration, 2) for name, duration in seconds.items()},
        "seconds": {name: round(duration, 4) for name, duration in seconds.items()},
        "pairs": len(timed),
        "batch_size": size,
        "trained": learner.shared.layout.size,
        "threads": torch.get_num_threads(),
    }


def _pair(learner: Learner, batch: list[Record], config: FederationConfig, *, dp_first: bool) -> _Timed:
    terms = PrivateTerms(unit="record", sampling_rate=1.0, noise_multiplier=1.0, clip=1.0)
    span: dict[str, Any] = {"steps": _STEPS, "round_number": 1, "rounds": 1}
    ways: dict[str, Callable[[], object]] = {
        "dp": lambda: train_privately(learner, batch, config.local, terms, **span),
        "plain": lambda: train(learner, batch, config.local, **span, seed=config.seed),
    }
    initial = learner.shared.read()
    seconds = {}
    for name in ("dp", "plain") if dp_first else ("plain", "dp"):
        learner.shared.write(initial)
        start = perf_counter()
        ways[name]()
        seconds[name] = (perf_counter() - start) / _STEPS
    learner.shared.write(initial)
    return _Timed(seconds["dp"], seconds["plain"])
