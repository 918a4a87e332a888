"""A backup on disks that are full to the last byte: one line that names the disk, and nothing left."""

import os
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest
from small_disk import small_disk

pytestmark = pytest.mark.servers

HERE = Path(__file__)
# Fills the small disk, then backs up; says which error came, and what is left beside the ballast.
SCRIPT = """
import sqlite3, sys
from contextlib import closing
from pathlib import Path
from small_disk import BALLAST, fill
from fedllm.backup.create import create_backup
from fedllm.config import fedllm_home
home, disk, out, *recipients = fedllm_home(), Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
(home / "coordinator" / "f").mkdir(parents=True)
with closing(sqlite3.connect(home / "stack.db")) as db:
    db.execute("create table t (n)")
    db.execute("insert into t values (zeroblob(3000000))")
    db.commit()
fill(disk)
with (disk / BALLAST).open("r+b") as ballast:  # room to begin, not to end
    ballast.truncate((disk / BALLAST).stat().st_size - 1_000_000)
try:
    create_backup(out, recipients=recipients)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
print(sorted(path.name for path in disk.iterdir()))
"""


@pytest.fixture(scope="module")
def recipient() -> str:
    return str(pyrage.x25519.Identity.generate().to_public())


@pytest.mark.parametrize("full", ["archive", "sealed archive", "home"])
def test_a_full_disk_is_named_and_nothing_is_left_on_it(tmp_path: Path, recipient: str, full: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 16) as inside:
        home, out = (
            (disk / "home", tmp_path / "b.tar") if full == "home" else (tmp_path / "home", disk / "b.tar")
        )
        env = os.environ | {
            "FEDLLM_HOME": str(home),
            "PYTHONPATH": str(HERE.parents[1] / "integration"),
        }
        command = [*inside, sys.executable, "-c", SCRIPT, str(disk), str(out)]
        command += [recipient] if full == "sealed archive" else []
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    said, left = done.stdout.splitlines()[-2:] if done.returncode == 0 else (done.stderr, "")
    named = home if full == "home" else disk
    assert said.startswith(f"DiskFullError: the disk of {named}"), said
    assert left == str(["ballast", "home"] if full == "home" else ["ballast"])
    assert not list(home.glob(".backup-*"))
