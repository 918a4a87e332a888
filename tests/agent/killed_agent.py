"""An agent's process that kills itself by -9 around a boundary. Usage: HOME INVITATION [WHEN PLACE]."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedllm.agent.accounts import Accounts
from fedllm.agent.agent import Agent
from fedllm.agent.job import Workbench
from fedllm.agent.join import accept_invitation
from fedllm.agent.memory import Memory
from fedllm.agent.outbox import Outbox
from fedllm.agent.trainers import InlineTrainer

PLACES: dict[str, tuple[type, str]] = {
    "reserve": (Accounts, "reserve"),
    "charge": (Accounts, "charge"),
    "commit": (Memory, "commit"),
    "release": (Outbox, "release"),
}


def dying(call: Callable[..., Any], when: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - as the original
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = call(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)
        return done

    return wrapped


def main() -> None:
    home, invitation, *death = sys.argv[1:]
    if death:
        owner, name = PLACES[death[1]]
        setattr(owner, name, dying(getattr(owner, name), death[0]))
    agent = Agent(
        accept_invitation(Path(invitation), Path(home)), InlineTrainer(Workbench(), threading.Lock())
    )
    for _ in range(4):
        agent.tick()
    agent.close()


if __name__ == "__main__":
    main()
