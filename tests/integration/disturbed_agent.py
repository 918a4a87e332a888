"""`fedllm agent` that is killed by -9 at exact places, each once: started again, it passes that place.

Usage: disturbed_agent.py FOLDER JSON [arguments of fedllm …]

The JSON is a list of `[place, round]`; FOLDER remembers those that came. Places: `reserved` (its answer is
on its disk, and not sent), `training` (after a step), `committed` (its update is on its disk, and not
sent), `half-sent` (the sealed update is in the store, the message that names it is not), `sent` (the store
has all of it, and the agent does not know). At two places the agent lives on: `child` (its training process
dies with the job in hand) and `full` (after a step the disk of its home has no byte left).
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from small_disk import fill

from fedllm.agent.job import Event, Job, StepDone
from fedllm.agent.memory import Memory
from fedllm.agent.trainers import ChildTrainer
from fedllm.cli.main import main
from fedllm.exchange.minio_store import MinioStore

folder = Path()
places: set[tuple[str, int]] = set()
reserve, commit, release = Memory.reserve, Memory.commit, Memory.release
start, poll, put = ChildTrainer.start, ChildTrainer.poll, MinioStore.put
under_way = 0  # the round that trains


def comes(place: str, number: int) -> bool:
    mark = folder / f"{place}-{number}"
    if (place, number) not in places or mark.exists():
        return False
    mark.touch()
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def reserved(self: Memory, run: str, number: int, *more: Any, **named: Any) -> Any:  # noqa: ANN401
    known = reserve(self, run, number, *more, **named)
    if comes("reserved", number):
        die()
    return known


def committed(self: Memory, run: str, number: int, *more: Any) -> None:  # noqa: ANN401
    commit(self, run, number, *more)
    if comes("committed", number):
        die()


def released(self: Memory, run: str, number: int) -> None:
    if comes("sent", number):
        die()
    release(self, run, number)


def started(self: ChildTrainer, job: Job) -> None:
    global under_way  # noqa: PLW0603 - one job at a time
    under_way = job.round
    start(self, job)
    if comes("child", job.round):
        assert self.pid
        os.kill(self.pid, signal.SIGKILL)


def polled(self: ChildTrainer) -> Event | None:
    event = poll(self)
    if isinstance(event, StepDone):
        if comes("training", under_way):
            die()
        if comes("full", under_way):
            fill(Path(sys.argv[sys.argv.index("--home") + 1]))
    return event


def shown(self: MinioStore, key: str, data: bytes) -> Any:  # noqa: ANN401
    if key.endswith("/update.json") and comes("half-sent", int(key.split("/")[-2])):
        die()
    return put(self, key, data)


def disturb(arguments: list[str]) -> None:
    """Not where the training process imports this file again."""
    global folder  # noqa: PLW0603 - set once, before anything comes
    folder = Path(arguments[0])
    places.update((place, number) for place, number in json.loads(arguments[1]))
    Memory.reserve, Memory.commit, Memory.release = reserved, committed, released  # type: ignore[method-assign]
    ChildTrainer.start, ChildTrainer.poll = started, polled  # type: ignore[method-assign]
    MinioStore.put = shown  # type: ignore[method-assign]


if __name__ == "__main__":
    disturb(sys.argv[1:3])
    sys.argv = ["fedllm", *sys.argv[3:]]
    main()
