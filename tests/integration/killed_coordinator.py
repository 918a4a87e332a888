"""`fedllm run` that is killed by -9 at one exact place: before or after a step's outcome is committed.

Usage: killed_coordinator.py before|after ROUND STEP [arguments of fedllm …]
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from fedllm.cli.main import main
from fedllm.journal.journal import Journal

when, number, step = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv = ["fedllm", *sys.argv[4:]]
once = Journal.once


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(  # noqa: PLR0913, PLR0917 - as the original
    self: Journal, run: str, at: int, name: str, kind: type[Any], compute: Callable[[], Any]
) -> Any:  # noqa: ANN401
    here = at == number and name.startswith(step)

    def computed() -> Any:  # noqa: ANN401
        made = compute()
        if here and when == "before":
            die()
        return made

    made = once(self, run, at, name, kind, computed)
    if here and when == "after":
        die()
    return made


Journal.once = killed_once  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
