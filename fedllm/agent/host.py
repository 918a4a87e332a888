"""Run many sites' agents on one machine, for a simulated federation: one process each, from one warm server.

`python -m fedllm.agent.host BASE` loads the base model in the folder BASE, reads a JSON list of seats as one
line from stdin, and writes the process id of each agent as one JSON line to stdout. It stops the agents and
ends when stdin closes; if it is killed, the agents end too.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from fedllm.agent.warm import name_process, server_address, share_server, warm_context

_FORMER = 30.0  # s to wait for an agent whose host was killed
_END = 15.0  # s for an agent to end before it is killed


@dataclass(frozen=True)
class Seat:
    """A site that takes part: its folder, invitation and log file."""

    name: str
    home: str
    invitation: str
    log: str


def _run_agent(seat: Seat, server: str | None) -> None:
    """Run one agent in its own process; its output goes to its own log, since it may quote records."""
    from fedllm.agent.take_part import take_part
    from fedllm.errors import FedllmError

    name_process(f"agent {seat.name}")
    share_server(server)
    with Path(seat.log).open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    stop = threading.Event()
    threading.Thread(target=_watch_host, args=(stop,), daemon=True).start()
    try:
        take_part(
            Path(seat.invitation), Path(seat.home), log_file=Path(seat.log), patience=_FORMER, stop=stop
        )
    except FedllmError as error:
        sys.stderr.write(f"fedllm: {error}\n")
        sys.exit(error.exit_code)


def _watch_host(stop: threading.Event) -> None:
    host = multiprocessing.parent_process()
    if host is not None:
        host.join()
        stop.set()


def main() -> None:
    """Start the agents that stdin names, and stop them when stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who closes stdin
    # The server loads what agents need while the caller still enrols the sites.
    context = warm_context(Path(sys.argv[1]))
    line = sys.stdin.readline()
    if not line:
        return
    seats = [Seat(**seat) for seat in json.loads(line)]
    server = server_address()
    agents = {
        seat.name: context.Process(target=_run_agent, args=(seat, server), name=f"agent {seat.name}")
        for seat in seats
    }
    for agent in agents.values():
        agent.start()
    sys.stdout.write(json.dumps({name: agent.pid for name, agent in agents.items()}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    for agent in agents.values():
        agent.terminate()
    for agent in agents.values():
        agent.join(_END)
        if agent.is_alive():
            agent.kill()
            agent.join()


if __name__ == "__main__":
    main()
