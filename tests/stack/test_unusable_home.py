"""A home that cannot be written to: every verb of the stack says so in one line, and what to do."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedllm.doctor import machine
from fedllm.doctor.checkup import checkup
from fedllm.doctor.finding import Finding
from tests.other_account import as_other

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
Command = Callable[[Path], list[str]]


def on_a_file(folder: Path) -> list[str]:
    (folder / "home").write_text("")
    return []


def below_a_file(folder: Path) -> list[str]:
    folder.rmdir()
    folder.write_text("")
    return []


def on_a_read_only_disk(folder: Path) -> list[str]:
    return on_a_disk_of_its_own(folder, 'mount -t tmpfs -o ro tmpfs "$1"')


def on_a_disk_that_has_become_read_only(folder: Path) -> list[str]:
    made = 'mount -t tmpfs tmpfs "$1" && mkdir -p "$1/home/stack" && mount -o remount,ro "$1"'
    return on_a_disk_of_its_own(folder, made)


def on_a_disk_of_its_own(folder: Path, mount: str) -> list[str]:
    """What a command begins with to see a disk at the folder; any user may have a mount namespace."""
    prefix = ["unshare", "-rm", "sh", "-c", f'{mount} && shift && exec "$@"', "sh", str(folder)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespaces here: {tried.stderr.strip()}")
    return prefix


def in_a_closed_folder(folder: Path) -> list[str]:
    folder.chmod(0o555)
    return [] if os.geteuid() else as_other()


def that_may_not_be_entered(folder: Path) -> list[str]:
    (folder / "home" / "stack").mkdir(parents=True)
    (folder / "home").chmod(0)
    return [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


HOMES = [on_a_file, below_a_file, on_a_read_only_disk, in_a_closed_folder]
WITH_A_STACK = [on_a_disk_that_has_become_read_only, that_may_not_be_entered]


def fedllm(prefix: list[str], home: Path, *verb: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"FEDLLM_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [*prefix, sys.executable, "-m", "fedllm", *verb]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, check=False)


def refused(done: subprocess.CompletedProcess[str], home: Path) -> None:
    """The verb ended in one line that says what to do."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("fedllm: ")
    assert f"{home} must be a folder that you can write to" in done.stderr
    assert "FEDLLM_HOME" in done.stderr


@pytest.mark.parametrize("make", HOMES + WITH_A_STACK)
def test_up_says_in_one_line_what_to_do(make: Command, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(fedllm(make(folder), folder / "home", "up", "--no-deploy"), folder / "home")


@pytest.mark.parametrize("make", WITH_A_STACK)
def test_down_says_in_one_line_what_to_do(make: Command, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(fedllm(make(folder), folder / "home", "down"), folder / "home")


def test_the_doctor_finds_it_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    found = {finding.name: finding for finding in checkup()}
    assert found["home"] == Finding(
        "home",
        "fail",
        f"{tmp_path / 'home'} is no folder",
        "correct that, or set FEDLLM_HOME to another folder",
    )
    assert found["stack"].status == "fail"
    assert "FEDLLM_HOME" in found["stack"].detail
    assert found["python"].status == "ok"


def test_the_doctor_is_content_with_a_home_that_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new" / "home"))
    assert [finding.status for finding in machine.home()] == ["ok"]
