"""A full disk: said in one line, nothing is corrupted, and with space again comes the same model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from disturbed import AGENT, DRIVER, same, versions, wait_for
from playground import PATIENCE, SITES, STEP, TRAINING, end, said
from small_disk import make_space, small_disk

from fedllm.config import fedllm_home, load_federation
from fedllm.data.prepare import cached_data
from fedllm.journal.location import coordinator_folder
from fedllm.simulation import join

CHECK = (
    "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchall())"
)


def named(federation: Path, name: str, folder: Path) -> Path:
    """The same federation under another name."""
    told = yaml.safe_load(federation.read_text()) | {"name": name}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


def run(
    inside: list[str], federation: Path, fills: list[Any], *more: str
) -> subprocess.CompletedProcess[str]:
    """`fedllm run`, with the small disk in sight."""
    command = [
        *inside,
        sys.executable,
        str(DRIVER),
        json.dumps(fills),
        "run",
        str(federation),
        "--json",
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_coordinator_whose_disk_is_full_says_so_and_resumes_to_the_same_model(
    undisturbed: dict[str, Any], federation: Path, tmp_path: Path
) -> None:
    narrow = named(federation, "narrow", tmp_path)
    folder = coordinator_folder("narrow")
    with small_disk(folder) as inside:
        done = run(inside, narrow, [("begin", 1, "aggregate", "fill", str(folder))])
        assert done.returncode == 1, done.stderr[-3000:]
        assert f"the disk of {folder} is full: make space, then go on with --resume" in said(done)
        assert "Traceback" not in done.stderr
        make_space(inside, folder)
        check = [*inside, sys.executable, "-c", CHECK, str(folder / "journal.db")]
        assert subprocess.run(check, capture_output=True, text=True, check=True).stdout == "[('ok',)]\n"
        done = run(inside, narrow, [], "--resume", said(done).split()[-1])
        assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert same(told, undisturbed)
    assert versions(told["run_id"], "narrow") == ["1", "2"]


def test_a_site_whose_disk_is_full_waits_for_space_and_the_round_for_the_site(
    undisturbed: dict[str, Any], federation: Path, tmp_path: Path
) -> None:
    cramped = named(federation, "cramped", tmp_path)
    config = load_federation(cramped)
    homes = {site: fedllm_home() / "simulated" / "cramped" / site for site in SITES}
    agents, log = [], tmp_path / "clinic.log"
    with small_disk(homes["clinic"]) as inside:
        for site, records in cached_data(config).sites.items():
            # The home on the small disk is made where that disk is in sight.
            at = inside if site == "clinic" else []
            home, marks = homes[site], tmp_path / site
            marks.mkdir()
            if at:
                joined = tmp_path / "joined"
                join(config, site, records, joined)
                subprocess.run([*at, "cp", "-a", f"{joined}/.", str(home)], check=True)
            else:
                join(config, site, records, home)
            places = [("full", 1)] if at else []
            command = [*at, sys.executable, str(AGENT), str(marks), json.dumps(places), "agent"]
            command += ["--home", str(home), "--invitation", str(home / "cramped.invitation")]
            command += ["--log", str(tmp_path / f"{site}.log")]
            agents.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        command = [sys.executable, "-m", "fedllm", "run", str(cramped), "--agents", "external", "--json"]
        training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        try:
            wait_for((tmp_path / "clinic" / "full-1").exists, STEP)
            wait_for(lambda: "this site's disk is full: make space" in log.read_text(), STEP)
            assert training.poll() is None
            make_space(inside, homes["clinic"])
            out, _ = training.communicate(timeout=TRAINING)
        finally:
            training.kill()
            end(agents)
    assert "Traceback" not in log.read_text()
    told = json.loads(out.splitlines()[-1])
    assert same(told, undisturbed)
    assert all(at["rounds"] == 2 for at in told["sites"].values())
