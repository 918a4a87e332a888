"""Whoever takes over MLflow's artifact store, or its server, changes a registered version: nothing loads it.

Each way of loading meets each change, and ends in one line before anything of the version is parsed or run.
The control loads the same planted code by MLflow alone: there it does run.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient

import fedllm
from fedllm.config import AdapterConfig
from fedllm.config.home import private_dir
from fedllm.errors import FedllmError, ReviewError, UntrustedVersionError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.models.folder import fingerprint as base_fingerprint
from fedllm.secure.identity import Identity, create_identity, fingerprint
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.version_record import RECORD, SignedRecord, open_record, sign_record
from tests.cli.in_process import fedllm as command_line
from tests.mlflow_record import TASK

NAME = "taken"
WHO = ("--reviewer", "Ann Example", "--reason", "reads well")


@dataclass
class Store:
    """MLflow's registry and artifact store, as somebody who took both over may write to them."""

    client: MlflowClient
    uri: str
    config: Path
    home: Path
    coordinator: Identity
    sentinel: Path

    def folder(self, version: str = "1") -> Path:
        """Where a version's files lie."""
        source = str(self.client.get_model_version(NAME, version).source).removeprefix("models:/")
        return Path(str(self.client.get_logged_model(source).artifact_location).removeprefix("file://"))

    def tags(self, version: str = "1") -> dict[str, str]:
        """A version's tags."""
        return dict(self.client.get_model_version(NAME, version).tags)

    def tag(self, value: str, version: str = "1", name: str = RECORD) -> None:
        """Write a tag of a version, the signed record where no other is named."""
        self.client.set_model_version_tag(NAME, version, name, value)

    @property
    def planted(self) -> str:
        """Code that leaves a mark when anybody runs it."""
        return f"open({str(self.sentinel)!r}, 'w').close()\nraise SystemExit('planted code ran')\n"


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, make_release: Callable[..., RoundRelease]
) -> Iterator[Store]:
    """Two versions of one training, in a registry and a folder of artifacts, and their coordinator's home."""
    folder = tmp_path_factory.mktemp("takeover")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.chdir(folder)  # where MLflow puts the artifacts of a store that is a file
        keys = private_dir(folder / "home" / "coordinator" / NAME) / "keys"
        coordinator = create_identity(keys, "coordinator")
        base, _ = load_base(resolve_base("tiny"))
        adapted = attach(base, AdapterConfig(rank=4, alpha=32), seed=7)
        tracker = Tracker(uri, coordinator)
        for number in (1, 2):
            drawn = torch.Generator().manual_seed(number)
            adapted.write(torch.randn(adapted.layout.size, generator=drawn))
            adapted.save(folder / f"round-{number}")
            tracker.publish(
                make_release(
                    NAME,
                    number,
                    adapter_folder=str(folder / f"round-{number}"),
                    base_sha256=base_fingerprint(resolve_base("tiny")),
                    config={"name": NAME, "privacy": {"unit": "none"}},
                    site_rows=[{"site": site, "verdict": "accepted"} for site in ("amazon", "movies")],
                )
            )
        public = [
            {"id": str(n), "silo": "amazon", "text": f"text {n}", "label": "positive"} for n in range(2)
        ]
        (folder / "public.jsonl").write_text("".join(json.dumps(record) + "\n" for record in public))
        config = folder / "federation.yaml"
        told = {
            "name": NAME,
            "model": {"base": "tiny"},
            "task": TASK,
            "evaluation": {"public": str(folder / "public.jsonl")},
            "tracking": {"uri": uri},
        }
        config.write_text(yaml.safe_dump(told))
        yield Store(tracker.client, uri, config, folder / "home", coordinator, folder / "planted-code-ran")


@pytest.fixture
def store(original: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The two versions as they were published; put back afterwards."""
    monkeypatch.setenv("FEDLLM_HOME", str(original.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", original.uri)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    kept = {version: tmp_path / f"kept-{version}" for version in ("1", "2")}
    tags = {version: original.tags(version) for version in kept}
    for version, copy in kept.items():
        shutil.copytree(original.folder(version), copy)
    yield original
    for version, copy in kept.items():
        shutil.rmtree(original.folder(version))
        shutil.copytree(copy, original.folder(version))
        now = original.tags(version)
        for name in now.keys() - tags[version].keys():
            original.client.delete_model_version_tag(NAME, version, name)
        for name, value in tags[version].items() - now.items():
            original.tag(value, version, name)
    original.sentinel.unlink(missing_ok=True)


# What somebody who can write there does.


def changes_the_code(store: Store) -> None:
    (store.folder() / "served_model.py").write_text(store.planted)


def changes_the_adapter(store: Store) -> None:
    weights = store.folder() / "artifacts/adapter/adapter_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)


def points_mlmodel_at_other_code(store: Store) -> None:
    described = yaml.safe_load((store.folder() / "MLmodel").read_text())
    described["flavors"]["python_function"]["model_code_path"] = "other.py"
    (store.folder() / "MLmodel").write_text(yaml.safe_dump(described))
    (store.folder() / "other.py").write_text(store.planted)


def changes_mlmodel_alone(store: Store) -> None:
    path = store.folder() / "MLmodel"
    path.write_text(path.read_text().replace("mlflow.pyfunc.loaders.code_model", "planted"))


def asks_for_other_packages(store: Store) -> None:
    (store.folder() / "requirements.txt").write_text("planted==1.0\n")


def names_another_base(store: Store) -> None:
    base = json.dumps({"name": "/tmp/planted", "sha256": "0" * 64})  # noqa: S108 - nobody opens it
    (store.folder() / "artifacts/base.json").write_text(base)


def adds_a_pickle(store: Store) -> None:
    (store.folder() / "python_model.pkl").write_bytes(b"cos\nsystem\n")


def adds_a_folder(store: Store) -> None:
    (store.folder() / "code").mkdir()
    (store.folder() / "code" / "sitecustomize.py").write_text(store.planted)


def adds_a_file_beside_the_adapter(store: Store) -> None:
    (store.folder() / "artifacts/adapter/modeling.py").write_text(store.planted)


def removes_a_file(store: Store) -> None:
    (store.folder() / "artifacts/task.json").unlink()


def removes_the_record(store: Store) -> None:
    changes_the_code(store)
    store.client.delete_model_version_tag(NAME, "1", RECORD)


def signs_by_another_key(store: Store) -> None:
    changes_the_code(store)
    other = create_identity(store.sentinel.with_name("other-keys"), "coordinator")
    shutil.rmtree(store.sentinel.with_name("other-keys"))
    record = open_record(NAME, "1", store.tags(), fingerprint(store.coordinator.public))
    store.tag(sign_record(record, other))


def shows_the_right_keys_over_another_signature(store: Store) -> None:
    other = create_identity(store.sentinel.with_name("other-keys"), "coordinator")
    shutil.rmtree(store.sentinel.with_name("other-keys"))
    record = open_record(NAME, "1", store.tags(), fingerprint(store.coordinator.public))
    forged = SignedRecord.model_validate_json(sign_record(record, other))
    store.tag(forged.model_copy(update={"keys": store.coordinator.public}).model_dump_json())


def exchanges_the_files_of_two_versions(store: Store) -> None:
    shutil.rmtree(store.folder("1"))
    shutil.copytree(store.folder("2"), store.folder("1"))


def rolls_back_to_another_version_with_its_record(store: Store) -> None:
    exchanges_the_files_of_two_versions(store)
    for name, value in store.tags("2").items():
        store.tag(value, "1", name)


def tells_another_model_hash(store: Store) -> None:
    store.tag("f" * 64, "1", "model.sha256")


CHANGES: dict[Callable[[Store], None], str] = {
    changes_the_code: "served_model.py was changed",
    changes_the_adapter: "adapter_model.safetensors was changed",
    points_mlmodel_at_other_code: "other.py was added",
    changes_mlmodel_alone: "MLmodel was changed",
    asks_for_other_packages: "requirements.txt was changed",
    names_another_base: "base.json was changed",
    adds_a_pickle: "python_model.pkl was added",
    adds_a_folder: "code was added",
    adds_a_file_beside_the_adapter: "modeling.py was added",
    removes_a_file: "task.json is missing",
    removes_the_record: "has no signed record",
    signs_by_another_key: "not by the coordinator",
    shows_the_right_keys_over_another_signature: "signature is not coordinator's",
    exchanges_the_files_of_two_versions: "was changed",
    rolls_back_to_another_version_with_its_record: "its record belongs to models:/taken/2",
    tells_another_model_hash: "its tag model.sha256",
}


# What their owners do.


def chat(store: Store) -> None:
    _run("chat", f"models:/{NAME}/1", "--prompt", "fine", "--config", store.config)


def evaluate(store: Store) -> None:
    _run("evaluate", f"models:/{NAME}/1", "--config", store.config)


def promote(store: Store) -> None:
    _run("promote", "1", *WHO, "--config", store.config)


def verify(store: Store) -> None:
    _run("model", "verify", "1", "--config", store.config)


def load_model(_: Store) -> None:
    fedllm.load_model(f"models:/{NAME}/1").predict(["fine"])


def load_a_checked_copy_by_mlflow(store: Store) -> None:
    copy = store.sentinel.with_name("copy")
    try:
        _run("model", "verify", "1", "--into", copy, "--config", store.config)
        mlflow.pyfunc.load_model(str(copy)).predict(["fine"])
    finally:
        shutil.rmtree(copy, ignore_errors=True)


WAYS = [chat, evaluate, promote, verify, load_model, load_a_checked_copy_by_mlflow]


def _pairs() -> Iterator[Any]:
    """Every change by one way and every way for two changes; the rest is for the sweep."""
    for way in WAYS:
        for change in CHANGES:
            usual = way is load_model or change in {
                changes_the_code,
                rolls_back_to_another_version_with_its_record,
            }
            marks = () if usual else pytest.mark.sweep
            yield pytest.param(way, change, marks=marks, id=f"{way.__name__}-{change.__name__}")


def _run(*arguments: str | Path) -> dict[str, Any]:
    done = command_line(*arguments, "--json")
    if done.returncode:
        assert done.stdout == ""
        raise FedllmError(done.stderr.splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_untouched_version_is_loaded(store: Store, way: Callable[[Store], None]) -> None:
    try:
        way(store)
    finally:
        aliases = store.client.get_registered_model(NAME).aliases
        if "champion" in aliases:
            store.client.delete_registered_model_alias(NAME, "champion")
    assert (way is promote) == ("champion" in aliases)


@pytest.mark.parametrize(("way", "change"), _pairs())
def test_a_changed_version_is_refused_in_one_line_and_planted_code_does_not_run(
    store: Store, way: Callable[[Store], None], change: Callable[[Store], None]
) -> None:
    change(store)
    with pytest.raises(FedllmError, match=CHANGES[change]) as refused:
        way(store)
    assert "\n" not in str(refused.value)
    assert not store.sentinel.exists()
    assert "champion" not in store.client.get_registered_model(NAME).aliases


@pytest.mark.parametrize("change", [changes_the_code, points_mlmodel_at_other_code])
def test_the_control_mlflow_alone_runs_what_was_planted(
    store: Store, change: Callable[[Store], None]
) -> None:
    change(store)
    with pytest.raises(SystemExit, match="planted code ran"):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    assert store.sentinel.exists()


def test_nothing_of_a_refused_version_is_parsed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        pytest.fail("a file of a refused version was read")

    changes_the_adapter(store)
    monkeypatch.setattr("fedllm.tracking.fetch.read_version", never)
    with pytest.raises(UntrustedVersionError, match="was changed"):
        fedllm.load_model(f"models:/{NAME}/1")


def test_elsewhere_than_at_the_coordinator_a_fingerprint_is_needed_and_is_enough(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "another-home"))
    with pytest.raises(UntrustedVersionError, match="give it with --pin"):
        load_model(store)
    with pytest.raises(FedllmError, match=r"files: fail, .* give it with --pin"):
        promote(store)
    pin = fingerprint(store.coordinator.public)
    assert fedllm.load_model(f"models:/{NAME}/1", pin=pin).predict(["fine"])
    assert _run("model", "verify", "1", "--pin", pin, "--config", store.config)["signed_by"] == pin
    checked = _run("promote", "1", "--check", "--pin", pin, "--config", store.config)
    assert checked["gates"]["files"]["verdict"] == "pass"
    monkeypatch.setenv("FEDLLM_PIN", pin)
    assert fedllm.load_model(f"models:/{NAME}@challenger").predict([]) == []
    with pytest.raises(FedllmError, match="no fingerprint"):
        fedllm.load_model(f"models:/{NAME}/1", pin="abcd")
    with pytest.raises(UntrustedVersionError, match="not by the coordinator"):
        fedllm.load_model(f"models:/{NAME}/1", pin="aaaa-" * 7 + "aaaa")


def test_a_version_of_before_is_loaded_when_it_is_asked_for_and_its_code_never_runs(store: Store) -> None:
    removes_the_record(store)
    arguments = ("chat", f"models:/{NAME}/1", "--prompt", "fine", "--unsigned", "--config", store.config)
    assert _run(*arguments)["model"] == f"models:/{NAME}/1"
    assert not store.sentinel.exists()


@pytest.mark.parametrize("change", [changes_the_adapter, signs_by_another_key])
def test_a_record_that_does_not_hold_is_not_overlooked_as_one_that_is_not_there(
    store: Store, change: Callable[[Store], None]
) -> None:
    change(store)
    with pytest.raises(UntrustedVersionError):
        fedllm.load_model(f"models:/{NAME}/1", unsigned=True)


def test_a_refusal_by_the_gate_is_on_record(store: Store) -> None:
    changes_the_code(store)
    with pytest.raises(FedllmError, match="not promoted: files: fail"):
        promote(store)
    assert json.loads(store.tags()["review.gates"])["files"][0] == "fail"


def test_a_record_fits_into_a_tag_whatever_its_names(store: Store) -> None:
    record = open_record(NAME, "1", store.tags(), fingerprint(store.coordinator.public))
    longest = record.model_copy(update={"federation": "f" * 63, "run": "r" * 63, "version": "9" * 10})
    assert len(sign_record(longest, store.coordinator)) < 5000


def test_a_version_is_signed_or_not_registered(
    store: Store, make_release: Callable[..., RoundRelease]
) -> None:
    with pytest.raises(FedllmError, match="needs its coordinator's signature"):
        Tracker(store.uri).publish(make_release("nobodys"))
    assert store.client.get_experiment_by_name("nobodys") is None
    with pytest.raises(ReviewError, match="no version 9"):
        Tracker(store.uri, store.coordinator).is_signed(NAME, "9")
