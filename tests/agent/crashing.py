"""A site that can be killed at every durable boundary, on a store that can fail and that remembers all."""

import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine

import fedllm.confidentiality.plain
from fedllm.agent.agent import Agent
from fedllm.agent.job import Failed, Finished, Job
from fedllm.agent.join import Membership
from fedllm.errors import ExchangeError, RefusedError
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.store import ObjectInfo, ObjectStore

T = TypeVar("T")

BOUNDARIES = ("reserve", "answer", "training", "seal", "commit", "payload", "update", "release", "clear")
Works = dict[tuple[str, int], tuple[str, str, bytes, bytes | None]]
# Thousands of short lives would wear a disk out, and a test does not lose its power.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - folders of their own are made there
OBJECTS = ("head", "plan", "roster", "model", "answer", "payload", "update")


class Crash(BaseException):
    """The process is gone: like a kill -9, nobody may catch it."""


@dataclass
class Fuse:
    """Blows when so many boundaries were passed, each of them before and after, again and again."""

    left: list[int] = field(default_factory=list)  # to pass until the next crash, and the one after it
    blown: Counter[str] = field(default_factory=Counter)  # where

    def around(self, boundary: str, call: Callable[..., T]) -> Callable[..., T]:
        def guarded(*args: Any, **named: Any) -> T:  # noqa: ANN401 - as the original
            self.pass_by(boundary, "before")
            done = call(*args, **named)
            self.pass_by(boundary, "after")
            return done

        return guarded

    def pass_by(self, boundary: str, when: str) -> None:
        if not self.left:
            return
        if self.left[0] == 0:
            self.left.pop(0)
            self.blown[f"{when} {boundary}"] += 1
            raise Crash
        self.left[0] -= 1


def kind_of(key: str) -> str:
    """Which of OBJECTS a key is; cards count for none."""
    name = key.rpartition("/")[2]
    if "/models/" in key:
        return "model"
    return "payload" if name == "update.bin" else name.removesuffix(".json")


class FlakyStore(DirectoryStore):
    """A folder that fails when told to, and notes every content that a site's key ever showed."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        super().__init__(folder)
        self.fuse = fuse
        self.failing: dict[str, tuple[int, bool]] = {}  # kind: how often still, and whether it is done first
        self.shown: dict[str, set[bytes]] = defaultdict(set)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        return self._through(key, data, lambda: DirectoryStore.put(self, key, data))

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        return self._through(key, path.read_bytes(), lambda: DirectoryStore.put_file(self, key, path))

    def get(self, key: str, *, limit: int) -> bytes:
        self._fail(kind_of(key))
        return super().get(key, limit=limit)

    def get_file(self, key: str, path: Path, *, limit: int) -> str:
        self._fail(kind_of(key))
        return super().get_file(key, path, limit=limit)

    def _through(self, key: str, data: bytes, write: Callable[[], ObjectInfo]) -> ObjectInfo:
        kind = kind_of(key)
        if kind not in {"answer", "payload", "update"}:
            return write()
        self.fuse.pass_by(kind, "before")
        self._fail(kind, done=False)
        info = write()
        self.shown[key].add(data)
        self._fail(kind, done=True)
        self.fuse.pass_by(kind, "after")
        return info

    def _fail(self, kind: str, *, done: bool | None = None) -> None:
        times, after = self.failing.get(kind, (0, False))
        if times and done in {None, after}:
            self.failing[kind] = (times - 1, after)
            raise ExchangeError(f"the store lost {kind}")


class InstantTrainer:
    """Trains at once, and never the same twice: whoever trains again shows it."""

    drawn = itertools.count()

    def __init__(self, fuse: Fuse, deaths: list[int]) -> None:
        self._fuse = fuse
        self._deaths = deaths  # how often the next jobs' process dies
        self._job: Job | None = None

    def start(self, job: Job) -> None:
        assert job.model.exists()
        self._job = job

    def poll(self) -> Finished | Failed | None:
        job, self._job = self._job, None
        if job is None:
            return None
        if self._deaths:
            self._deaths.pop()
            return Failed("the training process died", died=True)
        self._fuse.pass_by("training", "before")
        job.output.write_bytes(b"update %d" % next(self.drawn))
        self._fuse.pass_by("training", "after")
        return Finished(job.steps, job.steps, 0.5, 0.1)

    def cancel(self) -> None:
        self._job = None


_shared = create_engine("sqlite://")


def quick_engine(url: str) -> Engine:
    """As `create_engine`, without compiling each statement anew for each of thousands of databases."""
    engine = create_engine(url)
    engine.dialect, engine._compiled_cache = _shared.dialect, _shared._compiled_cache
    return engine


@dataclass(frozen=True)
class Wired(Membership):
    """A member whose store the test holds."""

    wire: ObjectStore

    def connect(self) -> ObjectStore:
        return self.wire


@dataclass
class Site:
    """A site's home over many lives of its agent."""

    member: Wired
    fuse: Fuse
    deaths: list[int] = field(default_factory=list)
    agent: Agent | None = None
    lives: int = 0

    def start(self) -> Agent:
        """A new agent on the same home, if the last one is gone."""
        if self.agent is None:
            self.agent = agent = Agent(self.member, InstantTrainer(self.fuse, self.deaths))
            self.lives += 1
            memory, around = agent.memory, self.fuse.around
            memory.reserve = around("reserve", memory.reserve)
            memory.commit = around("commit", memory.commit)
            memory.release = around("release", memory.release)
            agent.worker._clear = around("clear", agent.worker._clear)
            agent._show = lambda _state: None  # cards are no part of a round's work, and take their time
        return self.agent

    def tick(self) -> None:
        """One tick, as `Agent.run` does it; a crash leaves no agent."""
        agent = self.start()
        sealing = fedllm.confidentiality.plain.seal_to_file
        fedllm.confidentiality.plain.seal_to_file = self.fuse.around("seal", sealing)
        try:
            agent.tick()
        except (RefusedError, ExchangeError):
            pass
        except Crash:
            self.kill()
        finally:
            fedllm.confidentiality.plain.seal_to_file = sealing

    def kill(self) -> None:
        """What the system does for a process that is gone: files and locks are let go, nothing is said."""
        if self.agent is not None:
            self.agent.memory.close()
            self.agent._lock.release()
            self.agent = None

    def work(self) -> Works:
        """(run, round): state, plan, answer and update, as the disk has them."""
        path = self.member.home / "memory.db"
        if not path.exists():
            return {}
        with sqlite3.connect(path) as database:
            rows = database.execute('SELECT run, round, state, plan_sha256, answer, "update" FROM work')
            found = {(row[0], row[1]): tuple(row[2:]) for row in rows}
        database.close()
        return found  # type: ignore[return-value]  # the columns' types

    def files(self) -> set[str]:
        """Names in the work folder."""
        return {path.name for path in (self.member.home / "work").iterdir()}
