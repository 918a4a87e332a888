"""Agents and their training processes killed by -9 wherever it hurts, and started again: the same model."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from disturbed import AGENT, same, versions
from playground import SITES, fedllm

from fedllm.config import fedllm_home, load_federation
from fedllm.data.prepare import cached_data
from fedllm.simulation import join

# In which rounds, and where in its work, each site's agent dies.
DEATHS = {
    "clinic": [("reserved", 1), ("half-sent", 2)],
    "harbour": [("training", 1), ("sent", 2)],
    "mill": [("committed", 1), ("child", 2)],
}


@contextmanager
def restarted_agents(federation: Path, marks: Path) -> Iterator[dict[str, list[int]]]:
    """Agents that are started again whenever they die, as a service manager does; yields their exit codes."""
    config = load_federation(federation)
    over = threading.Event()
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, list[int]] = {site: [] for site in SITES}

    def keep(site: str, command: list[str]) -> None:
        while not over.is_set():
            running[site] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            codes[site].append(running[site].wait())

    threads = []
    for site, records in cached_data(config).sites.items():
        home = fedllm_home() / "simulated" / config.name / site
        join(config, site, records, home)
        (marks / site).mkdir()
        command = [sys.executable, str(AGENT), str(marks / site), json.dumps(DEATHS[site])]
        command += ["agent", "--home", str(home), "--invitation", str(home / f"{config.name}.invitation")]
        command += ["--log", str(home / "agent.log")]
        threads.append(threading.Thread(target=keep, args=(site, command)))
        threads[-1].start()
    try:
        yield codes
    finally:
        over.set()
        for agent in running.values():
            agent.terminate()
        for thread in threads:
            thread.join(30)


@pytest.mark.sweep
def test_agents_killed_at_every_point_of_their_work_and_restarted_end_in_the_same_model(
    undisturbed: dict[str, Any], federation: Path, tmp_path: Path
) -> None:
    with restarted_agents(federation, tmp_path) as codes:
        done = fedllm("run", str(federation), "--agents", "external", "--json")
        killed = {site: [code for code in told if code == -signal.SIGKILL] for site, told in codes.items()}
    for site, deaths in DEATHS.items():
        assert {path.name for path in (tmp_path / site).iterdir()} == {f"{p}-{n}" for p, n in deaths}
        assert len(killed[site]) == sum(place != "child" for place, _ in deaths)
    told = json.loads(done.stdout.splitlines()[-1])
    assert same(told, undisturbed)
    assert all(at["rounds"] == 2 for at in told["sites"].values())
    assert versions(told["run_id"]) == ["1", "2"]
    log = (fedllm_home() / "simulated" / "test" / "mill" / "agent.log").read_text()
    assert "the training process died; trying again" in log
