"""Measure the time that the sites' door adds to a large object and to a round."""

import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedllm.bench.home import home_in
from fedllm.config import FederationConfig, StoreConfig
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import RELEASE, JournaledRunner, Say, Step, T
from fedllm.coordinator.training import Training, open_training
from fedllm.data.prepare import cached_data
from fedllm.errors import StackError
from fedllm.exchange.iam import MinioIam
from fedllm.exchange.minio_store import MinioStore
from fedllm.journal.runs import new_run_id
from fedllm.simulation import agent_processes
from fedllm.stack.door import Door, door_command
from fedllm.stack.minio import MinioServer, ensure_bucket, free_port

SCHEMA = "fedllm.bench.door/1"
WAYS = ("door", "server")
_BUCKET, _KEY = "fedllm", "bench/sites/one/object"
_PATIENCE = 60.0  # s to wait for the door to listen

Seconds = dict[str, list[float]]


def bench_door(
    config: FederationConfig, pairs: int, megabytes: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Time objects and rounds through the door and directly at the server, both on this machine, in turns.

    Args:
        config: a federation with a `simulation`; the benchmark replaces its store by a temporary one.
        pairs: number of transfers, and of trainings, by each way.
        megabytes: size of the object.
        say: receives a line per pair.

    Returns:
        `fedllm.bench.door/1`: for PUT and GET of an object and for a round, the medians in s and the door's
        ratio to the server. The first round of each training is left out: agents start in it.

    Raises:
        StackError: The store or the door does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fedllm-bench-") as temporary,
        home_in(folder := Path(temporary)),
        MinioServer(folder / "store") as server,
        _door_before(server.endpoint, folder / "door") as door,
    ):
        keys = (server.access_key, server.secret_key)
        ensure_bucket(server.endpoint, _BUCKET, *keys)
        os.environ["FEDLLM_ACCESS_KEY"], os.environ["FEDLLM_SECRET_KEY"] = keys
        ways = dict(zip(WAYS, (door, server.endpoint), strict=True))
        site = MinioIam(server.endpoint, *keys, _BUCKET).add_site("bench", "one")
        stores = {
            way: MinioStore(endpoint, _BUCKET, access_key=site[0], secret_key=site[1])
            for way, endpoint in ways.items()
        }
        put, get = _objects(stores, folder, pairs, megabytes, say)
        rounds = _rounds(config, ways, server.endpoint, pairs, say)
    return {
        "schema": SCHEMA,
        "megabytes": megabytes,
        "pairs": pairs,
        "put": _compared(put),
        "get": _compared(get),
        "round": _compared(rounds),
    }


def _objects(
    stores: dict[str, MinioStore], folder: Path, pairs: int, megabytes: int, say: Callable[[str], None]
) -> tuple[Seconds, Seconds]:
    source, sink = folder / "object", folder / "again"
    with source.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
    put: Seconds = {way: [] for way in stores}
    get: Seconds = {way: [] for way in stores}
    for pair in range(pairs + 1):  # the first pair warms up
        for way, store in _turns(stores, pair):
            start = time.monotonic()
            store.put_file(_KEY, source)
            uploaded = time.monotonic()
            store.get_file(_KEY, sink, limit=megabytes << 20)
            downloaded = time.monotonic()
            sink.unlink()
            if pair:
                put[way].append(uploaded - start)
                get[way].append(downloaded - uploaded)
        if pair:
            times = [f"{way} {put[way][-1]:.2f} + {get[way][-1]:.2f} s" for way in stores]
            say(f"object {pair}: {', '.join(times)}")
    source.unlink()
    return put, get


def _rounds(
    config: FederationConfig, ways: dict[str, str], endpoint: str, pairs: int, say: Callable[[str], None]
) -> Seconds:
    data = cached_data(config)
    seconds: Seconds = {way: [] for way in ways}
    for pair in range(pairs):
        for way, address in _turns(ways, pair):
            store = StoreConfig(url=f"s3://{_BUCKET}", endpoint=endpoint, door=address)
            one = config.model_copy(update={"name": f"by-{way}", "store": store})
            with agent_processes(one, data), open_training(one, new_run_id(), data.public) as training:
                steps = _Clocked(training)
                play(training, steps)
            seconds[way] += [later - earlier for earlier, later in pairwise(steps.ends)]
        times = [f"{way} {statistics.median(seconds[way]):.2f} s" for way in ways]
        say(f"rounds {pair + 1}: {', '.join(times)}")
    return seconds


def _quiet(_text: str) -> None:
    pass


class _Clocked(JournaledRunner):
    """Run the steps of a training, and record when each round was released."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.ends: list[float] = []

    def run(self, step: Step[T], number: int, say: Say = _quiet) -> T:
        done = super().run(step, number, say)
        if step.name == RELEASE.name:
            self.ends.append(time.monotonic())
        return done


def _turns(ways: dict[str, Any], pair: int) -> list[tuple[str, Any]]:
    """Return the ways, in reverse order for odd pairs."""
    return list(ways.items())[:: -1 if pair % 2 else 1]


def _compared(seconds: Seconds) -> dict[str, Any]:
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        **{way: round(median, 4) for way, median in medians.items()},
        "ratio": round(medians["door"] / medians["server"], 3),
        "count": len(seconds["door"]),
    }


@contextmanager
def _door_before(store: str, folder: Path) -> Iterator[str]:
    """Run a door before a store inside the block, and yield its address."""
    door = Door(f"127.0.0.1:{free_port()}", store, _BUCKET)
    folder.mkdir()
    command = door_command(door, folder)
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _listens(door.listen):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise StackError(f"the door does not start: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.05)
            yield f"http://{door.listen}"
        finally:
            process.terminate()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False
