"""`fedllm run` whose surroundings are disturbed at exact places: as a step begins, or before it is on record.

Usage: disturbed_run.py JSON [arguments of fedllm …]

The JSON is a list of `[when, round, step, what, argument]`: `when` is begin or end, `step` the beginning of
a step's name, `what` a function of this file. Each happens once; whoever calls is told on stderr.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disturbed
import small_disk

from fedllm.cli.main import main
from fedllm.journal.journal import Journal

once = Journal.once
due: list[list[Any]] = json.loads(sys.argv[1])
sys.argv = ["fedllm", *sys.argv[2:]]
turn = threading.Lock()


def kill(server: str) -> None:
    disturbed.kill(server)


def stop(server: str) -> None:
    disturbed.stop(server)


def start(server: str) -> None:
    disturbed.start(server)


def away(server_and_seconds: str) -> None:
    """Stop a server and start it again so many seconds later."""
    server, _, seconds = server_and_seconds.partition(" ")
    disturbed.stop(server)
    threading.Timer(float(seconds), disturbed.start, [server]).start()


def fill(folder: str) -> None:
    """Leave no byte on the disk that holds `folder`."""
    small_disk.fill(Path(folder))


def disturb(when: str, number: int, step: str) -> None:
    with turn:  # the sites' tasks are threads
        for entry in [e for e in due if e[:2] == [when, number] and step.startswith(e[2])]:
            due.remove(entry)
            sys.stderr.write(f"disturbed: {' '.join(map(str, entry))}\n")
            globals()[entry[3]](entry[4])


def disturbed_once(  # noqa: PLR0913, PLR0917 - as the original
    self: Journal, run: str, at: int, name: str, kind: type[Any], compute: Callable[[], Any]
) -> Any:  # noqa: ANN401
    def computed() -> Any:  # noqa: ANN401
        disturb("begin", at, name)
        made = compute()
        disturb("end", at, name)
        return made

    return once(self, run, at, name, kind, computed)


Journal.once = disturbed_once  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
