"""Data that DVC manages are used as dvc.lock has them, or the difference is said."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedllm.config import FederationConfig, load_federation
from fedllm.data.lock import ManagedData, check_lock, managed_data
from fedllm.data.prepare import PreparedData
from fedllm.errors import DataError

PARAMS = {
    "name": "small",
    "seed": 7,
    "task": {"kind": "text", "fields": {"text": "text"}},
    "simulation": {"sites": ["amazon", "movies"], "partition": "silo"},
}
FILES = {
    "data/sites/amazon.jsonl": b'{"text": "a"}\n',
    "data/sites/movies.jsonl": b'{"text": "m"}\n',
    "data/public.jsonl": b'{"text": "p"}\n',
}


def out(path: str, content: bytes) -> dict[str, Any]:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return {"path": path, "hash": "md5", "md5": md5, "size": len(content)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder as `dvc repro` leaves it."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    outs = [out(name, content) for name, content in FILES.items()]
    made = {"seed": PARAMS["seed"], "simulation.sites": PARAMS["simulation"]["sites"]}
    stages = {
        "partition": {"cmd": "x", "outs": outs[:2], "params": {"params.yaml": made}},
        "evalset": {"cmd": "x", "outs": outs[2:]},
        "privacy-plan": {"cmd": "x", "outs": [], "params": {"params.yaml": {"rounds": {"max": 99}}}},
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return tmp_path


def config(project: Path, *overrides: str) -> FederationConfig:
    return load_federation(project / "params.yaml", overrides)


def managed(project: Path) -> ManagedData:
    found = managed_data(config(project), project)
    assert found is not None
    return found


def test_unchanged_data_are_the_prepared_data(project: Path) -> None:
    assert check_lock(managed(project), config(project)) == PreparedData(
        sites={name: project / "data" / "sites" / f"{name}.jsonl" for name in ("amazon", "movies")},
        public=project / "data" / "public.jsonl",
    )


def test_managed_data_carry_the_hash_of_their_lock(project: Path) -> None:
    assert managed(project).sha256 == hashlib.sha256((project / "dvc.lock").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_refused_by_the_files_name(project: Path, name: str) -> None:
    changed = bytearray(FILES[name])
    changed[-3] ^= 1
    (project / name).write_bytes(changed)
    with pytest.raises(DataError, match=f"{name} differs from dvc.lock"):
        check_lock(managed(project), config(project))


def test_a_file_that_the_lock_does_not_know_is_refused(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    del lock["stages"]["evalset"]
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(DataError, match=r"data/public\.jsonl differs from dvc\.lock"):
        check_lock(managed(project), config(project))


def test_a_file_that_is_gone_is_refused_by_its_name(project: Path) -> None:
    (project / "data/sites/movies.jsonl").unlink()
    with pytest.raises(DataError, match=r"data/sites/movies\.jsonl"):
        check_lock(managed(project), config(project))


@pytest.mark.parametrize(
    "other", ["seed=8", "simulation.sites=[amazon]", "simulation.partition=iid", "evaluation.public=p.jsonl"]
)
def test_a_configuration_that_means_other_data_is_not_managed(project: Path, other: str) -> None:
    assert managed_data(config(project, other), project) is None


@pytest.mark.parametrize(
    "changed", [{"seed": 8}, {"simulation": PARAMS["simulation"] | {"sites": ["amazon"]}}]
)
def test_parameters_that_were_edited_since_the_data_were_made_mean_others(
    project: Path, changed: dict[str, Any]
) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(PARAMS | changed))
    assert managed_data(config(project), project) is None


@pytest.mark.parametrize(("params", "locked"), [("1e-5", "1.0e-05"), ("1.0e-5", "1e-05"), ("0.1", "1e-1")])
def test_a_number_is_the_same_however_yaml_spells_it(project: Path, params: str, locked: str) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(PARAMS) + f"local: {{lr: {params}}}\n")
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    lock["stages"]["partition"]["params"]["params.yaml"]["local.lr"] = "NUMBER"
    (project / "dvc.lock").write_text(yaml.safe_dump(lock).replace("NUMBER", locked))
    assert managed_data(config(project), project) is not None


def test_a_folder_of_data_has_makers_too(project: Path) -> None:
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    lock["stages"]["all"] = {"outs": [out("data", b"")], "params": {"params.yaml": {"seed": 99}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert managed_data(config(project), project) is None


def test_a_setting_that_does_not_touch_the_data_leaves_them_managed(project: Path) -> None:
    assert managed_data(config(project, "local.lr=0.5"), project) == managed(project)


@pytest.mark.parametrize("absent", ["dvc.lock", "params.yaml"])
def test_a_folder_that_is_no_dvc_project_is_not_managed(project: Path, absent: str) -> None:
    same = config(project)
    (project / absent).unlink()
    assert managed_data(same, project) is None


@pytest.mark.parametrize(
    "text",
    [
        b"stages: [",
        b"just words",
        b"schema: '2.0'",
        b"stages: [1]",
        b"stages: {a: {outs: [{path: x}]}}",
        b"\xff\xfe\xfa",
    ],
    ids=["no YAML", "a text", "no stages", "a list", "no md5", "no UTF-8"],
)
def test_a_lock_that_cannot_be_read_says_how_to_restore_it(project: Path, text: bytes) -> None:
    (project / "dvc.lock").write_bytes(text)
    with pytest.raises(DataError, match=r"dvc\.lock cannot be read: restore it from git"):
        check_lock(managed(project), config(project))
