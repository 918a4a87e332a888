"""A backup of a coordinator whose store is a folder, taken in the middle of a round, and its restore."""

import json
import shutil
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fedllm.backup import journals
from fedllm.backup.counters import EPOCHS, HEADS, ORIGIN, ROSTERS, above
from fedllm.backup.create import create_backup
from fedllm.backup.reading import verify
from fedllm.backup.restore import restore
from fedllm.cli import backup as verbs
from fedllm.config import FederationConfig
from fedllm.coordinator.members import coordinator_identity
from fedllm.coordinator.steps import DP_AUDIT, LOCAL_TRAIN, JournaledRunner
from fedllm.coordinator.training import open_training
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated
from fedllm.journal.release_queue import queue_release, waiting_releases
from fedllm.journal.runs import find_run
from tests.backup.lost import finish, lose_everything, numbers, restore_backup
from tests.coordinator.played import SITES


def test_a_round_that_stopped_with_its_updates_in_the_store_is_finished_to_the_same_model_after_a_restore(
    config: FederationConfig,
    steps: JournaledRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = create_backup(tmp_path / "b.tar")
    before = numbers(steps.training.journal)
    expected = finish(steps)
    keys = coordinator_identity(config.name).public
    lose_everything(tmp_path, monkeypatch)
    done = restore_backup(tmp_path)
    assert done.objects == len(manifest.objects) > 3 * len(SITES)
    assert done.outside == {config.name: SITES}
    assert manifest.federations[config.name].unfinished == ("run-1",)
    assert coordinator_identity(config.name).public == keys
    with open_training(config, "run-1", Path(config.evaluation.public)) as again:
        after = numbers(again.journal)
        seconds = int(manifest.taken - ORIGIN)
        assert all(number > old for number, old in zip(after, before, strict=True))
        assert after[0] >= HEADS * seconds
        assert min(after[1] / EPOCHS, after[2] / ROSTERS) >= seconds
        assert finish(JournaledRunner(again)).model.sha256 == expected.model.sha256
        assert again.roster.roster_version == after[2]


def test_archives_restored_in_any_order_go_on_above_whatever_earlier_restores_used(
    steps: JournaledRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps
    old, newer = tmp_path / "old.tar", tmp_path / "newer.tar"
    create_backup(old)
    found, now = [], time.time()
    for hour, archive in enumerate((old, newer, old), start=1):
        if archive == newer:
            create_backup(newer)  # of what the first restore led to
        lose_everything(tmp_path, monkeypatch, f"home-{hour}")
        with pytest.MonkeyPatch.context() as clock:
            clock.setattr("fedllm.backup.counters.time.time", lambda at=now + 3600 * hour: at)
            restore(archive, stores=[f"file://{tmp_path / 'store'}"])
        with closing(Journal("played")) as journal:
            found.append(numbers(journal))
    least = [3600 * HEADS, 3600 * EPOCHS, 3600 * ROSTERS]  # what may be used in an hour
    for earlier, later in pairwise(found):
        assert all(b - a >= more for a, b, more in zip(earlier, later, least, strict=True))


def test_a_machine_whose_clock_is_behind_goes_by_the_time_of_the_backup() -> None:
    ahead = time.time() + 86_400
    assert above(5, HEADS, ahead) == HEADS * int(ahead - ORIGIN)
    assert above(10**12, HEADS, ahead) == 10**12 + 1


def test_a_round_that_ends_while_it_is_backed_up_is_read_again_a_round_further_on(
    steps: JournaledRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, looks = journals.read_journal, []

    def read_then_go_on(connection: Any) -> Any:  # noqa: ANN401 - as the original
        told = read(connection)
        looks.append(len(told.needs))
        if len(looks) == 1:
            finish(steps)  # destroys what the copied journal leads to
        return told

    monkeypatch.setattr(journals, "read_journal", read_then_go_on)
    create_backup(tmp_path / "b.tar")
    assert looks == [len(SITES), 0]
    lose_everything(tmp_path, monkeypatch)
    restore_backup(tmp_path)
    with closing(Journal("played")) as journal:
        assert journal.outcome("run-1", 1, "aggregate", Aggregated) is not None


def test_an_update_that_was_opened_already_needs_no_copy_in_the_store(
    steps: JournaledRunner,
    config: FederationConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    list(steps.each(LOCAL_TRAIN, 1, SITES))
    steps.run(DP_AUDIT, 1)
    for site in SITES:
        steps.training.mailbox.store.delete(steps.training.layout.payload(site, "run-1", 1))
    create_backup(tmp_path / "b.tar")
    expected = finish(steps)
    lose_everything(tmp_path, monkeypatch)
    restore_backup(tmp_path)
    with open_training(config, "run-1", Path(config.evaluation.public)) as again:
        assert finish(JournaledRunner(again)).model.sha256 == expected.model.sha256


def test_an_update_that_is_nowhere_is_told_of_and_keeps_nothing_else_from_the_backup(
    steps: JournaledRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = steps.training.layout.payload(SITES[0], "run-1", 1)
    steps.training.mailbox.store.delete(lost)
    said: list[str] = []
    manifest = create_backup(tmp_path / "b.tar", progress=said.append)
    assert manifest.lost == (lost,)
    assert [line for line in said if lost in line]
    lose_everything(tmp_path, monkeypatch)
    assert restore_backup(tmp_path).manifest == manifest


def test_a_release_that_waits_finds_its_adapter_in_the_new_home_and_a_running_training_is_marked(
    steps: JournaledRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = steps.training.folder / "round-1"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    queue_release(steps.training.journal, "run-1", 1, json.dumps({"adapter_folder": str(folder)}))
    create_backup(tmp_path / "b.tar")
    lose_everything(tmp_path, monkeypatch)
    restore_backup(tmp_path)
    with closing(Journal("played")) as journal:
        ((_, _, body),) = waiting_releases(journal)
        row = find_run(journal, "run-1")
    moved = Path(json.loads(body)["adapter_folder"])
    assert moved.is_relative_to(tmp_path / "new")
    assert (moved / "adapter_model.safetensors").read_bytes() == b"adapter"
    assert row is not None
    assert (row.status, row.reason.startswith("restored from a backup of 20")) == ("crashed", True)


def test_without_keys_no_private_key_is_in_the_archive(
    steps: JournaledRunner,
    config: FederationConfig,
    tmp_path: Path,
) -> None:
    assert steps
    create_backup(tmp_path / "with.tar")
    create_backup(tmp_path / "without.tar", keys=False)
    key = (tmp_path / "home" / "coordinator" / config.name / "keys" / "age.key").read_bytes().strip()
    assert key in (tmp_path / "with.tar").read_bytes()
    assert key not in (tmp_path / "without.tar").read_bytes()
    assert verify(tmp_path / "without.tar").keys is False


def test_the_verbs_say_what_is_in_an_archive_as_one_json_object(
    steps: JournaledRunner,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert steps
    out = tmp_path / "b.tar"
    told: list[dict[str, Any]] = []
    for arguments in ({"out": out}, {"out": None, "verify": out}):
        verbs.backup(**arguments, as_json=True)
        told.append(json.loads(capsys.readouterr().out))
    assert [one.pop("status") for one in told] == ["written", "verified"]
    assert told[0] == told[1]
    assert told[0]["lost"] == []
    assert told[0]["federations"]["played"]["unfinished"] == ["run-1"]
    with pytest.raises(ConfigError, match="--verify"):
        verbs.backup(None)
    with pytest.raises(ConfigError, match="keep backups elsewhere"):
        verbs.backup(tmp_path / "home" / "b.tar")
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setenv("FEDLLM_HOME", "replaced by --into")
    url = f"file://{tmp_path / 'store'}"
    verbs.restore(out, into=tmp_path / "into", store=[url], as_json=True)
    back = json.loads(capsys.readouterr().out)
    assert back["invite"] == {"played": list(SITES)}
    assert back["unfinished"] == {"played": ["run-1"]}
