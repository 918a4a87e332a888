"""What the federation is worth: against training on pooled data, and against each site on its own.

A site alone does rounds x steps optimizer steps, as it does in the federation. Central training does as
many as all sites together, with batches drawn from the pooled data: exactly as many samples as the whole
federation sees.
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
from fedllm.tasks.text import TextLearner
from fedllm.training.evaluate import Evaluation, evaluate
from fedllm.training.local import train

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Bench:
    """What every measurement of one seed shares."""

    config: FederationConfig
    model: CausalModel
    tokenizer: Tokenizer
    public: list[Record]

    def trained_on(self, records: Sequence[Record], steps: int) -> float:
        """Accuracy after training a fresh adapter for so many steps on these records alone."""
        adapted = attach(self.model, self.config.model.adapter, self.config.seed)
        learner = TextLearner(adapted, self.tokenizer, self.config.task)
        try:
            # One round as long as the whole federation, so that a schedule runs its full course.
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
            return accuracy(evaluate(learner, self.public))
        finally:
            adapted.detach()


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
        config: of the federation; its seed is replaced by each of `seeds`, which also deals the data
            and draws the public part anew.
        seeds: at least one.
        federated: runs the federation and gives its accuracy.
        folder: where each seed's data are put, `folder/seed-{seed}`.
        say: told what was measured, as it is measured; with `jobs`, other processes import it.
        jobs: seeds measured at once, each in a process of its own with one torch thread.

    Returns:
        `{"config", "seeds": [{"seed", "zero_shot", "central", "alone": {site: x}, "federated"}],
        "mean": {"zero_shot", "central", "alone", "federated"}, "deviation": {…}}`, accuracies from 0
        to 1; the deviation between seeds is None for a single one.

    Raises:
        ConfigError: the task has no accuracy, or there are no seeds.
    """
    if config.task.kind != "classification" or not seeds:
        raise ConfigError("yardsticks need a classification task and at least one seed")
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
    """One seed's row."""
    model, tokenizer = load_base(resolve_base(config.model.base))
    seeded = config.model_copy(update={"seed": seed})
    data = prepare(seeded, folder / f"seed-{seed}")
    held = {name: read_records(path) for name, path in data.sites.items()}
    pooled = [record for records in held.values() for record in records]
    bench = _Bench(seeded, model, tokenizer, load_public(seeded, data.public))
    steps = config.rounds.max * config.local.steps
    row: dict[str, Any] = {"seed": seed}
    row["zero_shot"] = accuracy(evaluate(TextLearner(model, tokenizer, config.task), bench.public))
    say(f"seed {seed}: zero-shot {row['zero_shot']:.1%}")
    row["federated"] = federated(seeded)
    say(f"seed {seed}: federated {row['federated']:.1%}")
    row["central"] = bench.trained_on(pooled, steps * len(held))
    say(f"seed {seed}: central {row['central']:.1%}")
    row["alone"] = {}
    for name, records in held.items():
        row["alone"][name] = bench.trained_on(records, steps)
        say(f"seed {seed}: {name} alone {row['alone'][name]:.1%}")
    return row


def accuracy(found: Evaluation) -> float:
    """The share of right labels over all public records."""
    if found.accuracy is None:
        raise ConfigError("this task has no accuracy to compare")
    return found.accuracy


def _over_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    columns = {name: [row[name] for row in rows] for name in ("zero_shot", "central", "federated")}
    columns["alone"] = [fmean(row["alone"].values()) for row in rows]
    return {
        "mean": {name: fmean(values) for name, values in columns.items()},
        "deviation": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }
