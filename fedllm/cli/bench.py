"""The verbs `fedllm bench …`: reproduce the numbers of the README."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config, Overrides
from fedllm.cli.output import console, emit
from fedllm.tasks.metrics import counting_metric

if TYPE_CHECKING:
    from fedllm.config import FederationConfig

app = typer.Typer(no_args_is_help=True, help="Measure what the README states.")


@app.command()
def yardsticks(
    *,
    config: Config = FEDERATION,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many, from the file's own on.")] = 3,
    out: Annotated[Path, typer.Option("--reports", help="The folder of the report.")] = Path("reports"),
    sets: Overrides = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Seeds measured at once, a core each.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Compare the federation with central training on the same samples, and with each site alone."""
    from fedllm.bench.yardsticks import yardsticks as measure
    from fedllm.config import cache_dir, load_federation
    from fedllm.data.records import write_bytes

    settings = load_federation(config, sets or ())

    wanted = range(settings.seed, settings.seed + seeds)
    result = measure(settings, wanted, _federated, cache_dir() / "yardsticks", say=_say, jobs=jobs)
    write_bytes(out / "yardsticks.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    shown = counting_metric(settings).shown
    lines = [f"{name:10} {shown(value)}" for name, value in result["mean"].items()]
    emit(as_json, result, "\n".join([*lines, f"written: {out / 'yardsticks.json'}"]))


@app.command()
def soak(
    *,
    config: Config = FEDERATION,
    rounds: Annotated[int, typer.Option("--rounds", min=8, help="How many.")] = 200,
    out: Annotated[Path, typer.Option("--reports", help="The folder of the report.")] = Path("reports"),
    as_json: AsJson = False,
) -> None:
    """Play many rounds with a tiny model on the real stack: do memory, threads and open files stay flat?"""
    from fedllm.bench.soak import soak as measure
    from fedllm.cli.run import run
    from fedllm.config import load_federation
    from fedllm.data.records import write_bytes
    from fedllm.stack import up

    short = ["name=soak", "model.base=tiny", "local.steps=2", "evaluation.limit=8", f"rounds.max={rounds}"]
    settings = load_federation(config, [*short, "rounds.patience=null"])
    result = measure(settings, run, up())
    write_bytes(out / "soak.json", (json.dumps(result, indent=1, sort_keys=True) + "\n").encode())
    lines = [
        f"{result['rounds']} rounds in {result['seconds']:.0f} s: {'flat' if result['flat'] else 'GROWS'}"
    ]
    for party, values in result["parties"].items():
        grew = ", ".join(
            f"{values[name]['second_quarter']} to {values[name]['last_quarter']} {name}"
            for name in ("megabytes", "threads", "files")
            if name in values
        )
        lines.append(f"{party:12} {grew}")
    lines += [f"{name:14} {size / 1e6:8.2f} MB" for name, size in result["bytes"].items()]
    emit(as_json, result, "\n".join(lines))
    if not result["flat"]:
        raise typer.Exit(1)


@app.command()
def dp(
    *,
    config: Config = FEDERATION,
    pairs: Annotated[int, typer.Option("--pairs", min=7, help="Measurements of each kind.")] = 9,
    sets: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare a site's speed with DP-SGD and without, in turns on the same batches."""
    from fedllm.bench.dp import bench_dp
    from fedllm.config import load_federation

    result = bench_dp(load_federation(config, sets or ()), pairs, _say)
    speed = result["records_per_second"]
    emit(as_json, result, f"{result['ratio']:.2f}: {speed['dp']} records/s with DP, {speed['plain']} without")


@app.command()
def release(
    *,
    rounds: Annotated[int, typer.Option("--rounds", min=10, help="How many.")] = 200,
    sites: Annotated[int, typer.Option("--sites", min=2, help="How many take part in each.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Time the release of early and late rounds under differential privacy, into an MLflow of its own."""
    from fedllm.bench.release import bench_release

    result = bench_release(rounds, sites, _say)
    lines = [
        f"round {number:>4}: {took['seconds']:.2f} s ({took['cpu_seconds']:.2f} s of this process), "
        f"{took['journal_reads']:g} journal reads, {result['body_bytes'][number] / 1000:.1f} kB in the queue"
        for number, took in result["by_round"].items()
    ]
    ratio = (
        f"the last of them takes {result['ratio']:.2f} times the first "
        f"({result['cpu_ratio']:.2f} in CPU time)"
    )
    emit(as_json, result, "\n".join([*lines, ratio]))


@app.command()
def door(
    *,
    config: Config = FEDERATION,
    pairs: Annotated[int, typer.Option("--pairs", min=3, help="Measurements of each kind.")] = 5,
    megabytes: Annotated[int, typer.Option("--megabytes", min=1, help="Size of the object.")] = 1024,
    sets: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Time objects and rounds through the sites' door and without it, in turns."""
    from fedllm.bench.door import bench_door
    from fedllm.config import load_federation

    result = bench_door(load_federation(config, sets or ()), pairs, megabytes, _say)
    lines = [
        f"{name:6} {took['door']:.2f} s by the door, {took['server']:.2f} s without it, {took['ratio']:.3f}"
        for name, took in result.items()
        if isinstance(took, dict)
    ]
    emit(as_json, result, "\n".join(lines))


def _federated(seeded: "FederationConfig") -> float:
    from fedllm.simulation import simulate

    return float(simulate(seeded).eval[counting_metric(seeded).name])


def _say(text: str) -> None:
    console().print(text)
