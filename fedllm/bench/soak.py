"""Many rounds in one go: whether the coordinator and the agents stay as large as they began."""

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
from fedllm.journal.journal import Journal, coordinator_folder

EVERY = 2.0  # s between samples
MEASURES = ("megabytes", "threads", "files")
# What may come on top between the second and the last quarter of the rounds: allocators and caches breathe.
ROOM = {"megabytes": 30.0, "threads": 3.0, "files": 6.0}


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    rounds: int  # completed so far
    party: str  # `coordinator` or `agents`
    megabytes: float  # resident
    threads: int
    files: int  # open, sockets among them


@dataclass
class Watch:
    """Samples this process and the agents below it until it is left."""

    federation: str
    samples: list[Sample] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, name="soak", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with closing(Journal(self.federation)) as journal:
            while not self._stop.wait(EVERY):
                rounds = _completed(journal)
                for party, processes in _parties().items():
                    if (sample := _measure(rounds, party, processes)) is not None:
                        self.samples.append(sample)


def soak(
    config: FederationConfig, run: Callable[[FederationConfig], dict[str, Any]], here: Endpoints
) -> dict[str, Any]:
    """Play a federation and report how its processes and databases grew.

    Args:
        config: a federation that one machine plays, with as many rounds as are wanted.
        run: plays it, agents in processes of their own, and returns the `fedllm.run/1` object.
        here: the stack that it uses.

    Returns:
        The `fedllm.soak/1` object: for each party the median of the second and of the last quarter of the
        rounds, whether it is flat, and the bytes of databases and store.
    """
    begun = time.monotonic()
    with Watch(config.name) as watch:
        told = run(config)
    took = time.monotonic() - begun
    parties = {}
    for party in sorted({sample.party for sample in watch.samples}):
        parties[party] = _growth([s for s in watch.samples if s.party == party], told["rounds"])
    return {
        "schema": "fedllm.soak/1",
        "rounds": told["rounds"],
        "seconds": round(took, 1),
        "parties": parties,
        "flat": all(measured["flat"] for measured in parties.values()),
        "bytes": _sizes(config, here),
    }


def _growth(samples: list[Sample], rounds: int) -> dict[str, Any]:
    """Medians of the second and the last quarter of the rounds."""
    early = [s for s in samples if rounds / 4 <= s.rounds < rounds / 2]
    late = [s for s in samples if rounds * 3 / 4 <= s.rounds <= rounds]
    told: dict[str, Any] = {"samples": len(samples)}
    flat = bool(early and late)
    for name in MEASURES if flat else ():
        before = statistics.median(getattr(s, name) for s in early)
        after = statistics.median(getattr(s, name) for s in late)
        told[name] = {"second_quarter": round(before, 1), "last_quarter": round(after, 1)}
        flat = flat and after - before <= ROOM[name]
    return told | {"flat": flat}


def _completed(journal: Journal) -> int:
    """Rounds of the run under way."""
    runs = journal.runs()
    return sum(step == "release" for _, step in journal.times(runs[-1].run)) if runs else 0


def _parties() -> dict[str, list[psutil.Process]]:
    """This process; and the agents with their training processes, which all come from one host."""
    me = psutil.Process()
    found = {"coordinator": [me]}
    for child in me.children():
        try:
            if "fedllm.agent.host" in child.cmdline():
                found["agents"] = [child, *child.children(recursive=True)]
        except psutil.Error:
            continue
    return found


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
        return None  # one of them has just ended


def _sizes(config: FederationConfig, here: Endpoints) -> dict[str, int]:
    """Bytes of every database and of the two buckets."""
    databases = {
        "journal": coordinator_folder(config.name) / "journal.db",
        "prefect": here.home / "stack" / "prefect" / "prefect.db",
        "mlflow": here.home / "stack" / "mlflow.db",
    }
    for path in sorted((here.home / "simulated" / config.name).glob("*/memory.db")):
        databases[f"agent {path.parent.name}"] = path
    found = {name: path.stat().st_size for name, path in databases.items() if path.exists()}
    blocks = here.home / "stack" / "minio" / "blocks"
    found["minio blocks"] = sum(path.stat().st_size for path in blocks.rglob("*") if path.is_file())
    return found
