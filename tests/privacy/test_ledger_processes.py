"""Several processes on one ledger, and processes that are killed: what was charged is there, once."""

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.privacy.accounting import Event
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.secure.identity import Identity, create_identity
from tests.privacy.spent import spent_events

pytestmark = pytest.mark.servers

PLENTY = Event(0.01, 4.0, 1_000_000)
NO_LIMIT = Limits(None, 1e-5)

# One process: charges steps of a round, one by one, and says each that the ledger took.
CHARGER = """
import sys
from pathlib import Path
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity

home, number, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
ledger = Ledger(home / "ledger.db", load_identity(home / "keys"))
for step in range(first, last):
    charged = ledger.charge("ward-7", federation="fed", run="run-1", round=number, first=step, steps=1)
    print(step, charged.sha256, flush=True)
"""

OPENER = """
import sys
from pathlib import Path
from fedllm.privacy.accounting import Event
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.secure.identity import load_identity

home = Path(sys.argv[1])
ledger = Ledger(home / "ledger.db", load_identity(home / "keys"))
print(ledger.reserve("ward-7", "record", federation="fed", run="run-1", plan_sha256="a" * 64,
    event=Event(0.01, 4.0, 1_000_000), delta=1e-5, limit=Limits(None, 1e-5)).sha256)
"""


@pytest.fixture
def me(tmp_path: Path) -> Identity:
    return create_identity(tmp_path / "keys", "amazon")


def ledger_of(home: Path, me: Identity) -> Ledger:
    return Ledger(home / "ledger.db", me)


def begun(home: Path, me: Identity) -> None:
    with closing(ledger_of(home, me)) as ledger:
        ledger.reserve(
            "ward-7",
            "record",
            federation="fed",
            run="run-1",
            plan_sha256="a" * 64,
            event=PLENTY,
            delta=1e-5,
            limit=NO_LIMIT,
        )


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> dict[int, str]:
    """Step and hash of each charge that a process, now gone, was told of."""
    assert process.stdout is not None
    whole = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    errors = process.communicate(timeout=120)[1]
    assert process.returncode in {0, -signal.SIGKILL}, errors
    return {int(line.split()[0]): line.split()[1] for line in whole}


def test_processes_that_open_a_new_ledger_at_once_share_one_chain(tmp_path: Path, me: Identity) -> None:
    openers = [start(OPENER, tmp_path) for _ in range(3)]
    told = {process.communicate(timeout=120)[0] for process in openers}
    assert [process.returncode for process in openers] == [0, 0, 0]
    assert len(told) == 1
    with closing(ledger_of(tmp_path, me)) as ledger:
        assert len(ledger.entries("ward-7", show=None)) == 2


def test_two_processes_at_once_lose_no_charge_and_make_none_twice(tmp_path: Path, me: Identity) -> None:
    """Both charge rounds of their own, and steps 0 to 29 of round 3, which count once."""
    begun(tmp_path, me)
    own = [start(CHARGER, tmp_path, number, 0, 40) for number in (1, 2)]
    same = [start(CHARGER, tmp_path, 3, 0, 30) for _ in range(2)]
    told = [said(process) for process in own + same]
    assert [len(charges) for charges in told] == [40, 40, 30, 30]
    assert told[2] == told[3]
    with closing(ledger_of(tmp_path, me)) as ledger:
        ledger.verify()
        entries = ledger.entries("ward-7", show=None)
    assert {sha256 for charges in told for sha256 in charges.values()} == {e.sha256 for e in entries[2:]}
    assert spent_events(entries) == [Event(0.01, 4.0, 110)]


def test_a_process_killed_while_it_charges_loses_nothing_that_it_was_told(
    tmp_path: Path, me: Identity
) -> None:
    """SIGKILL three times, each at another point; the same steps are then charged again by a successor."""
    begun(tmp_path, me)
    told: dict[int, str] = {}
    for life in range(3):
        process = start(CHARGER, tmp_path, 1, 0, 100_000)
        assert process.stdout is not None
        for _ in range(len(told) + 20 + 7 * life):
            step, sha256 = process.stdout.readline().split()
            assert told.setdefault(int(step), sha256) == sha256  # what was told once holds
        process.send_signal(signal.SIGKILL)
        told |= said(process)
        assert process.returncode == -signal.SIGKILL
        with closing(ledger_of(tmp_path, me)) as ledger:
            ledger.verify()
            charges = {e.first: e.sha256 for e in ledger.entries("ward-7", show=None) if e.kind == "charge"}
        assert {step: charges[step] for step in told} == told
        assert len(charges) - len(told) in {0, 1}  # the one that was written and not told yet
