"""Run many rounds, and report whether the processes of coordinator and agents grow."""

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Self

import psutil

from fedllm.config import FederationConfig
from fedllm.endpoints import Endpoints
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.journal.runs import all_runs

EVERY = 2.0  # s between samples
MEASURES = ("megabytes", "threads", "files")
# Allowed growth between the second and the last quarter of the rounds: allocators and caches fluctuate.
ROOM = {"megabytes": 30.0, "threads": 3.0, "files": 6.0}


@dataclass(frozen=True)
class Sample:
    """One party's processes at one moment."""

    rounds: int  # completed so far
    party: str  # `coordinator` or `agents`
    megabytes: float  # resident
    threads: int
    files: int  # open, sockets among them


@dataclass
class ProcessSampler:
    """Sample this process and its agents periodically inside the block."""

    federation: str
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="soak", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        with closing(Journal(self.federation)) as journal:
            while not self._stop.wait(EVERY):
                rounds = _completed(journal)
                for party, processes in _parties().items():
                    if (sample := _measure(rounds, party, processes)) is not None:
                        self.samples.append(sample)


def soak(
    config: FederationConfig, run: Callable[[FederationConfig], dict[str, Any]], endpoints: Endpoints
) -> dict[str, Any]:
    """Play a federation and report how its processes and databases grew.

    Args:
        config: a simulated federation, with the wanted number of rounds.
        run: plays it with agents in their own processes, and returns the `fedllm.run/1` object.
        endpoints: of the stack that it uses.

    Returns:
        The `fedllm.soak/1` object: for each party the medians of the second and of the last quarter of the
        rounds, whether it is flat, and the bytes of databases and store.
    """
    start = time.monotonic()
    with ProcessSampler(config.name) as sampler:
        result = run(config)
    elapsed = time.monotonic() - start
    parties = {}
    for party in sorted({sample.party for sample in sampler.samples}):
        parties[party] = _growth([s for s in sampler.samples if s.party == party], result["rounds"])
    return {
        "schema": "fedllm.soak/1",
        "rounds": result["rounds"],
        "seconds": round(elapsed, 1),
        "parties": parties,
        "flat": all(growth["flat"] for growth in parties.values()),
        "bytes": _sizes(config, endpoints),
    }


def _growth(samples: list[Sample], rounds: int) -> dict[str, Any]:
    """Return the medians of the second and the last quarter of the rounds, and whether they are flat."""
    early = [s for s in samples if rounds / 4 <= s.rounds < rounds / 2]
    late = [s for s in samples if rounds * 3 / 4 <= s.rounds <= rounds]
    growth: dict[str, Any] = {"samples": len(samples)}
    flat = bool(early and late)
    for name in MEASURES if flat else ():
        before = statistics.median(getattr(s, name) for s in early)
        after = statistics.median(getattr(s, name) for s in late)
        growth[name] = {"second_quarter": round(before, 1), "last_quarter": round(after, 1)}
        flat = flat and after - before <= ROOM[name]
    return growth | {"flat": flat}


def _completed(journal: Journal) -> int:
    """Return the completed rounds of the newest run."""
    runs = all_runs(journal)
    return sum(step == "release" for _, step in journal.times(runs[-1].run)) if runs else 0


def _parties() -> dict[str, list[psutil.Process]]:
    """Return this process, and the agents with their training processes: one host process starts them all."""
    own = psutil.Process()
    parties = {"coordinator": [own]}
    for child in own.children():
        try:
            if "fedllm.agent.host" in child.cmdline():
                parties["agents"] = [child, *child.children(recursive=True)]
        except psutil.Error:
            continue
    return parties


def _measure(rounds: int, party: str, processes: list[psutil.Process]) -> Sample | None:
    try:
        return Sample(
            rounds,
            party,
            sum(p.memory_info().rss for p in processes) / 1e6,
            sum(p.num_threads() for p in processes),
            sum(p.num_fds() for p in processes),
        )
    except psutil.Error:
        return None  # a process has just ended


def _sizes(config: FederationConfig, endpoints: Endpoints) -> dict[str, int]:
    """Return the bytes of every database and of the two buckets."""
    databases = {
        "journal": coordinator_folder(config.name) / "journal.db",
        "prefect": endpoints.home / "stack" / "prefect" / "prefect.db",
        "mlflow": endpoints.home / "stack" / "mlflow.db",
    }
    for path in sorted((endpoints.home / "simulated" / config.name).glob("*/memory.db")):
        databases[f"agent {path.parent.name}"] = path
    sizes = {name: path.stat().st_size for name, path in databases.items() if path.exists()}
    blocks = endpoints.home / "stack" / "minio" / "blocks"
    sizes["minio blocks"] = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
    return sizes
