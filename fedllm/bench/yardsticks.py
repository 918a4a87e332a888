"""Compare the federation to training on pooled data, and to each site alone.

A site alone takes rounds x steps optimizer steps, as it does in the federation. Central training takes as
many as all sites together, with batches drawn from the pooled data, so it sees exactly as many samples as the
whole federation.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from fedllm.config import FederationConfig
from fedllm.data.prepare import load_public, prepare
from fedllm.data.records import Record, read_records
from fedllm.errors import ConfigError
from fedllm.models.adapter import attach
from fedllm.models.base import CausalModel, Tokenizer, load_base, resolve_base
from fedllm.tasks.load import causal_learner
from fedllm.tasks.metrics import counting_metric
from fedllm.training.evaluate import evaluate
from fedllm.training.learner import Learner
from fedllm.training.local import train

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Bench:
    """The parts that all measurements of one seed share."""

    config: FederationConfig
    model: CausalModel
    tokenizer: Tokenizer
    public: list[Record]

    def trained_on(self, records: Sequence[Record], steps: int) -> float:
        """Train a fresh adapter on these records only, and return the metric that counts."""
        adapted = attach(self.model, self.config.model.adapter, self.config.seed)
        learner = causal_learner(adapted, self.tokenizer, self.config.task)
        try:
            # One round as long as the whole training, so that a learning rate schedule runs its full course.
            local = self.config.local.model_copy(update={"steps": steps})
            train(
                learner,
                records,
                local,
                steps=steps,
                round_number=1,
                rounds=1,
                seed=self.config.seed,
            )
            return self.measure(learner)
        finally:
            adapted.detach()

    def measure(self, learner: Learner) -> float:
        """Return the metric that counts, over all public records."""
        metric = counting_metric(self.config)
        return evaluate(learner, self.public, {metric.name: metric.compute}).metrics[metric.name]


def yardsticks(  # noqa: PLR0913 - what is compared and how, each named by the caller
    config: FederationConfig,
    seeds: Sequence[int],
    federated: Callable[[FederationConfig], float],
    folder: Path,
    *,
    say: Say = print,
    jobs: int = 1,
) -> dict[str, Any]:
    """Measure central, alone and federated training on the same public records, for each seed.

    Args:
        config: of the federation; each of `seeds` replaces its seed, and with it the partition of the data
            and the public part.
        seeds: at least one.
        federated: runs the federation and returns its metric that counts.
        folder: holds each seed's data in `folder/seed-{seed}`.
        say: receives a line per measurement; with `jobs` above 1 it must be importable.
        jobs: seeds measured in parallel, each in its own process with one torch thread.

    Returns:
        `{"config", "seeds": [{"seed", "zero_shot", "central", "alone": {site: x}, "federated"}],
        "mean": {"zero_shot", "central", "alone", "federated"}, "deviation": {…}}`, values of the
        metric that counts; the deviation between seeds is None for a single one.

    Raises:
        ConfigError: The task is no classification of texts, its metric cannot be computed, or there are no
            seeds.
    """
    if not (config.task.traits.labels and config.task.traits.tokens) or not seeds:
        raise ConfigError("yardsticks need a classification task and at least one seed")
    counting_metric(config)
    measure = partial(_measure, config, federated, folder, say)
    if jobs == 1:
        rows = [measure(seed) for seed in seeds]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            rows = list(pool.map(measure, seeds))
    return {"config": config.public_json(), "seeds": rows, **_over_seeds(rows)}


def _measure(
    config: FederationConfig,
    federated: Callable[[FederationConfig], float],
    folder: Path,
    say: Say,
    seed: int,
) -> dict[str, Any]:
    """Return one seed's row."""
    model, tokenizer = load_base(resolve_base(config.model.base))
    seeded = config.model_copy(update={"seed": seed})
    data = prepare(seeded, folder / f"seed-{seed}")
    held = {name: read_records(path) for name, path in data.sites.items()}
    pooled = [record for records in held.values() for record in records]
    bench = _Bench(seeded, model, tokenizer, load_public(seeded, data.public))
    steps = config.rounds.max * config.local.steps
    row: dict[str, Any] = {"seed": seed}
    shown = counting_metric(config).shown
    row["zero_shot"] = bench.measure(causal_learner(model, tokenizer, config.task))
    say(f"seed {seed}: zero-shot {shown(row['zero_shot'])}")
    row["federated"] = federated(seeded)
    say(f"seed {seed}: federated {shown(row['federated'])}")
    row["central"] = bench.trained_on(pooled, steps * len(held))
    say(f"seed {seed}: central {shown(row['central'])}")
    row["alone"] = {}
    for name, records in held.items():
        row["alone"][name] = bench.trained_on(records, steps)
        say(f"seed {seed}: {name} alone {shown(row['alone'][name])}")
    return row


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    columns = {name: [row[name] for row in rows] for name in ("zero_shot", "central", "federated")}
    columns["alone"] = [fmean(row["alone"].values()) for row in rows]
    return {
        "mean": {name: fmean(values) for name, values in columns.items()},
        "deviation": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }
