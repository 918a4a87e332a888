"""Versions of before signatures, or of former keys, signed from the coordinator's journal and disk."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import fedllm
from fedllm.config import FederationConfig
from fedllm.coordinator.members import coordinator_identity
from fedllm.coordinator.sign_again import sign_versions
from fedllm.errors import IdentityError, ReviewError, UntrustedVersionError
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.journal.release_queue import mark_released, queue_release
from fedllm.journal.runs import begin_run
from fedllm.models.base import resolve_base
from fedllm.models.codec import encode_flat
from fedllm.models.folder import fingerprint
from fedllm.secure.identity import retire_identity
from fedllm.tasks.load import load_learner
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.version_record import RECORD
from tests.mlflow_record import TASK

NAME = "signed"
CONFIG = FederationConfig.model_validate({"name": NAME, "model": {"base": "tiny"}, "task": TASK})


@dataclass
class Published:
    """A version, as a coordinator has it in its journal, on its disk and in MLflow."""

    uri: str
    tracker: Tracker
    folder: Path  # of the run

    def unsign(self) -> None:
        """As a version of before: without a record."""
        self.tracker.client.delete_model_version_tag(NAME, "1", RECORD)


@pytest.fixture
def published(
    make_release: Callable[..., RoundRelease], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Published:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("FEDLLM_PIN", raising=False)
    monkeypatch.chdir(tmp_path)
    base = resolve_base("tiny")
    shared = load_learner(base, CONFIG.model.adapter, CONFIG.seed, CONFIG.task).shared
    flat = torch.randn(shared.layout.size, generator=torch.Generator().manual_seed(1))
    shared.write(flat)
    folder = coordinator_folder(NAME) / "runs" / "run-a"
    shared.save(folder / "round-1")
    data = encode_flat(flat)
    (folder / f"{sha256(data)}.model").write_bytes(data)
    release = make_release(
        NAME, model_sha256=sha256(data), base_sha256=fingerprint(base), adapter_folder=str(folder / "round-1")
    )
    tracker = Tracker(uri, coordinator_identity(NAME))
    version = tracker.publish(release)
    moved = replace(release, adapter_folder="/a/home/of/before")
    with closing(Journal(NAME)) as journal:
        begin_run(journal, "run-a", CONFIG.model_dump_json())
        queue_release(journal, "run-a", 1, moved.to_json())
        mark_released(journal, "run-a", 1, json.dumps({"name": NAME, "version": version.version, "uri": ""}))
    return Published(uri, tracker, folder)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def loads() -> bool:
    return len(fedllm.load_model(f"models:/{NAME}/1").predict(["fine"])) == 1


@pytest.mark.parametrize("collected", [False, True], ids=["adapter on disk", "rebuilt from the flat model"])
def test_a_version_of_before_is_signed_and_its_files_are_put_back(
    published: Published, collected: bool
) -> None:
    assert loads()
    published.unsign()
    logged = str(published.tracker.client.get_model_version(NAME, "1").source).removeprefix("models:/")
    there = Path(str(published.tracker.client.get_logged_model(logged).artifact_location))
    adapter = there / "artifacts/adapter/adapter_model.safetensors"
    genuine = adapter.read_bytes()
    adapter.write_bytes(b"somebody else's")
    (there / "served_model.py").write_text("raise SystemExit('planted')")
    with pytest.raises(UntrustedVersionError, match="fedllm model sign"):
        loads()
    if collected:  # as `fedllm gc` leaves it
        shutil.rmtree(published.folder / "round-1")
    assert sign_versions(CONFIG, published.uri).signed == ["1"]
    assert adapter.read_bytes() == genuine
    assert "planted" not in (there / "served_model.py").read_text()
    assert loads()
    assert sign_versions(CONFIG, published.uri).valid == ["1"]
    adapter.write_bytes(b"somebody else's")
    assert sign_versions(CONFIG, published.uri, "1").signed == ["1"]
    assert loads()


def test_after_new_keys_what_the_former_signed_counts_no_more_until_it_is_signed_again(
    published: Published,
) -> None:
    retire_identity(coordinator_folder(NAME) / "keys")
    coordinator_identity(NAME)
    with pytest.raises(UntrustedVersionError, match="not by the coordinator"):
        loads()
    assert sign_versions(CONFIG, published.uri, "1").signed == ["1"]
    assert loads()


def test_what_is_not_on_this_disk_or_not_of_this_journal_is_not_signed(published: Published) -> None:
    published.unsign()
    shutil.rmtree(published.folder)
    assert "no longer on this disk" in sign_versions(CONFIG, published.uri).left["1"]
    with pytest.raises(ReviewError, match="no published version 2"):
        sign_versions(CONFIG, published.uri, "2")
    shutil.rmtree(coordinator_folder(NAME) / "keys")
    with pytest.raises(IdentityError, match="sign at the coordinator"):
        sign_versions(CONFIG, published.uri)
    assert not (coordinator_folder(NAME) / "keys").exists()
