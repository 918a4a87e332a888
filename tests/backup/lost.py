"""What a test does around a backup: play on, lose everything, bring it back."""

import json
from pathlib import Path

import pytest

from fedllm.backup.restore import Restored, restore
from fedllm.coordinator.steps import AGGREGATE, DP_AUDIT, EVALUATE, LOCAL_TRAIN, JournaledRunner
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated
from fedllm.journal.tables import FederationRow, LeaseRow
from tests.coordinator.played import SITES


def finish(steps: JournaledRunner) -> Aggregated:
    """Close and aggregate round 1; its updates are destroyed then."""
    list(steps.each(LOCAL_TRAIN, 1, SITES))
    steps.run(DP_AUDIT, 1)
    made = steps.run(AGGREGATE, 1)
    steps.run(EVALUATE, 1)
    return made


def numbers(journal: Journal) -> tuple[int, int, int]:
    with journal.read() as session:
        head = session.get_one(FederationRow, journal.federation)
        epoch = session.get_one(LeaseRow, journal.federation).epoch
        return head.head_counter, epoch, json.loads(head.roster)["roster_version"]


def lose_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str = "new") -> Path:
    """The home and the store are gone; an empty home has another name."""
    for name in ("home", "store"):
        if (tmp_path / name).exists():
            (tmp_path / name).rename(tmp_path / f"gone-{name}-{new}")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / new))
    return tmp_path / new


def restore_backup(tmp_path: Path, **options: bool) -> Restored:
    """Restore `b.tar`; the played federation's store is a folder, which has to be named."""
    return restore(tmp_path / "b.tar", stores=[f"file://{tmp_path / 'store'}"], **options)


def stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())
