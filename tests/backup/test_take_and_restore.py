"""A backup of a coordinator whose store is a folder, taken in the middle of a round, and its restore."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedllm.backup import take
from fedllm.backup.archive import ArchiveWriter, written
from fedllm.backup.bring_back import restore
from fedllm.backup.manifest import Manifest
from fedllm.backup.reading import verify
from fedllm.backup.skip_ahead import EPOCHS, HEADS, ROSTERS
from fedllm.backup.take import take_backup
from fedllm.cli import backup as verbs
from fedllm.config import FederationConfig
from fedllm.coordinator.journal import Journal
from fedllm.coordinator.members import coordinator_identity, roster_of
from fedllm.coordinator.outcomes import Aggregated
from fedllm.coordinator.release_queue import queue_release, waiting_releases
from fedllm.coordinator.rounds import JournaledSteps
from fedllm.coordinator.tables import FederationRow, LeaseRow
from fedllm.coordinator.training import Training, open_training
from fedllm.errors import BackupError, ConfigError
from tests.coordinator.conftest import config, sites, training  # noqa: F401 - fixtures
from tests.coordinator.played import SITES, PlayedSite, begin_round


@pytest.fixture
def steps(training: Training, sites: dict[str, PlayedSite]) -> JournaledSteps:  # noqa: F811 - pytest's
    """Round 1 with every update in the store and on record, none of them opened yet."""
    played = begin_round(training, sites)
    played.take_part()
    steps = JournaledSteps(training)
    steps.remote_local_train(1, SITES)
    return steps


def finish(steps: JournaledSteps) -> Aggregated:
    """Close and aggregate round 1; its updates are destroyed then."""
    steps.dp_audit(1, steps.remote_local_train(1, SITES))
    made = steps.aggregate(1)
    steps.evaluate(1)
    return made


def numbers(journal: Journal) -> tuple[int, int, int]:
    with journal.read() as session:
        head = session.get_one(FederationRow, journal.federation)
        epoch = session.get_one(LeaseRow, journal.federation).epoch
        return head.head_counter, epoch, json.loads(head.roster)["roster_version"]


def lose_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home and the store are gone; an empty home has another name."""
    (tmp_path / "home").rename(tmp_path / "gone")
    (tmp_path / "store").rename(tmp_path / "gone-store")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    return tmp_path / "new"


def test_a_round_that_stopped_with_its_updates_in_the_store_is_finished_to_the_same_model_after_a_restore(
    config: FederationConfig,  # noqa: F811 - pytest's
    steps: JournaledSteps,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = take_backup(tmp_path / "b.tar")
    before = numbers(steps.training.journal)
    expected = finish(steps)
    keys = coordinator_identity(config.name).public
    lose_everything(tmp_path, monkeypatch)
    done = restore(tmp_path / "b.tar")
    assert done.objects == len(manifest.objects) > 3 * len(SITES)
    assert done.outside == {config.name: SITES}
    assert manifest.federations[config.name].unfinished == ("run-1",)
    assert coordinator_identity(config.name).public == keys
    with open_training(config, "run-1", Path(config.evaluation.public)) as again:
        after = numbers(again.journal)
        assert after[0] >= before[0] + HEADS
        assert after[1] >= before[1] + EPOCHS
        assert after[2] == before[2] + ROSTERS
        assert finish(JournaledSteps(again)).model.sha256 == expected.model.sha256
        shown = again.mailbox.store.get(again.layout.roster, limit=10**6)
        assert str(after[2]).encode() in shown or roster_of(again.journal, again.mailbox.me)


def test_a_round_that_ends_while_it_is_backed_up_is_read_again_a_round_further_on(
    steps: JournaledSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looks = take.read_journal, []

    def read_then_go_on(connection: Any) -> Any:  # noqa: ANN401 - as the original
        told = read(connection)
        looks.append(len(told.needs))
        if len(looks) == 1:
            finish(steps)  # destroys what the copied journal leads to
        return told

    monkeypatch.setattr(take, "read_journal", read_then_go_on)
    take_backup(tmp_path / "b.tar")
    assert looks == [len(SITES), 0]
    lose_everything(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar")
    with closing(Journal("played")) as journal:
        assert journal.outcome("run-1", 1, "aggregate", Aggregated) is not None


def test_an_update_that_was_opened_already_needs_no_copy_in_the_store(
    steps: JournaledSteps,
    config: FederationConfig,  # noqa: F811 - pytest's
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps.dp_audit(1, steps.remote_local_train(1, SITES))
    for site in SITES:
        steps.training.mailbox.store.delete(steps.training.layout.payload(site, "run-1", 1))
    take_backup(tmp_path / "b.tar")
    expected = finish(steps)
    lose_everything(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar")
    with open_training(config, "run-1", Path(config.evaluation.public)) as again:
        assert finish(JournaledSteps(again)).model.sha256 == expected.model.sha256


def test_an_update_that_is_nowhere_is_an_error_and_no_archive(steps: JournaledSteps, tmp_path: Path) -> None:
    steps.training.mailbox.store.delete(steps.training.layout.payload(SITES[0], "run-1", 1))
    with pytest.raises(BackupError, match="back up between trainings"):
        take_backup(tmp_path / "b.tar")
    assert not list(tmp_path.glob("*b.tar*"))
    assert not list(tmp_path.glob(".fedllm-backup-*"))


def test_a_release_that_waits_finds_its_adapter_in_the_new_home_and_a_running_training_is_marked(
    steps: JournaledSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = steps.training.folder / "round-1"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    queue_release(steps.training.journal, "run-1", 1, json.dumps({"adapter_folder": str(folder)}))
    take_backup(tmp_path / "b.tar")
    lose_everything(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar")
    with closing(Journal("played")) as journal:
        ((_, _, body),) = waiting_releases(journal)
        row = journal.run("run-1")
    moved = Path(json.loads(body)["adapter_folder"])
    assert moved.is_relative_to(tmp_path / "new")
    assert (moved / "adapter_model.safetensors").read_bytes() == b"adapter"
    assert row is not None
    assert (row.status, row.reason.startswith("restored from a backup of 20")) == ("crashed", True)


def test_a_home_or_a_store_that_is_not_empty_is_left_as_it_is(
    steps: JournaledSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps
    take_backup(tmp_path / "b.tar")
    with pytest.raises(ConfigError, match=r"is not empty \(coordinator\)"):
        restore(tmp_path / "b.tar")
    assert (tmp_path / "home" / "coordinator" / "played" / "journal.db").exists()
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    with pytest.raises(BackupError, match="--keep-objects"):
        restore(tmp_path / "b.tar")
    assert not (tmp_path / "new").exists()
    (tmp_path / "new" / "cache").mkdir(parents=True)
    (tmp_path / "new" / "cache" / "model").write_text("costly")
    assert restore(tmp_path / "b.tar", keep_objects=True).objects == 0
    assert (tmp_path / "new" / "cache" / "model").read_text() == "costly"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_damaged_archive_is_refused_before_anything_is_written(
    steps: JournaledSteps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps
    take_backup(tmp_path / "b.tar")
    new = lose_everything(tmp_path, monkeypatch)
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupError, match="is damaged"):
        restore(tmp_path / "b.tar")
    assert not new.exists()


@pytest.mark.parametrize("name", ["home/../outside", "home//etc/outside", "home/a/../../../outside"])
def test_an_archive_that_leads_out_of_the_home_is_refused_and_leaves_the_home_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "source").write_text("x")
    with written(tmp_path / "b.tar", ()) as stream:
        archive = ArchiveWriter(stream)
        archive.add("home/coordinator/good", tmp_path / "source")
        archive.add(name, tmp_path / "source")
        archive.finish(
            Manifest(
                fedllm="0",
                taken=1.0,
                home="/x",
                keys=True,
                federations={},
                ledgers=(),
                databases=(),
                buckets=(),
                objects=(),
                members=tuple(archive.members),
            )
        )
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "deep" / "new"))
    with pytest.raises(BackupError, match="leads out of the home"):
        restore(tmp_path / "b.tar")
    assert list((tmp_path / "deep" / "new").iterdir()) == []
    assert not list(tmp_path.rglob("outside"))


def test_without_keys_no_private_key_is_in_the_archive(
    steps: JournaledSteps,
    config: FederationConfig,  # noqa: F811 - pytest's
    tmp_path: Path,
) -> None:
    assert steps
    take_backup(tmp_path / "with.tar")
    take_backup(tmp_path / "without.tar", keys=False)
    key = (tmp_path / "home" / "coordinator" / config.name / "keys" / "age.key").read_bytes().strip()
    assert key in (tmp_path / "with.tar").read_bytes()
    assert key not in (tmp_path / "without.tar").read_bytes()
    assert verify(tmp_path / "without.tar").keys is False


def test_the_verbs_say_what_is_in_an_archive_as_one_json_object(
    steps: JournaledSteps, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps
    out = tmp_path / "b.tar"
    told: list[dict[str, Any]] = []
    for arguments in ({"out": out}, {"out": None, "verify": out}):
        verbs.backup(**arguments, as_json=True)
        told.append(json.loads(capsys.readouterr().out))
    assert [one.pop("status") for one in told] == ["written", "verified"]
    assert told[0] == told[1]
    assert told[0]["federations"]["played"]["unfinished"] == ["run-1"]
    with pytest.raises(ConfigError, match="--verify"):
        verbs.backup(None)
    with pytest.raises(ConfigError, match="keep backups elsewhere"):
        verbs.backup(tmp_path / "home" / "b.tar")
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setenv("FEDLLM_HOME", "replaced by --into")
    verbs.restore(out, into=tmp_path / "into", as_json=True)
    back = json.loads(capsys.readouterr().out)
    assert back["invite"] == {"played": list(SITES)}
    assert back["unfinished"] == {"played": ["run-1"]}
