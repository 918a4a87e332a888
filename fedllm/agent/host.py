"""Many sites' agents on one machine, for a simulated federation: each a process, all from one warm server.

`python -m fedllm.agent.host BASE` loads the base model in the folder BASE, reads one line of JSON from stdin,
a list of seats, and writes one to stdout, the process id of each agent. It ends when stdin does, and the
agents with it; they end too should it be killed.
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

_FORMER = 30.0  # s for an agent whose host was killed to be on its way out
_END = 15.0  # s for an agent to end before it is killed


@dataclass(frozen=True)
class Seat:
    """A site that takes part: its folder, its invitation, and where its log goes."""

    name: str
    home: str
    invitation: str
    log: str


def _sit(seat: Seat, server: str | None) -> None:
    """One agent, in its own process: what it says goes to its own log, for it may quote records."""
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
    """Start the agents that stdin names, and stop them when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who closes stdin
    # It loads what agents need while the caller still has the sites join.
    context = warm_context(Path(sys.argv[1]))
    line = sys.stdin.readline()
    if not line:
        return
    seats = [Seat(**seat) for seat in json.loads(line)]
    server = server_address()
    agents = {
        seat.name: context.Process(target=_sit, args=(seat, server), name=f"agent {seat.name}")
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
