"""Data that DVC manages: a run uses them as `dvc.lock` has them, or says that they differ."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from fedllm.config import FederationConfig, load_federation
from fedllm.config.yaml_text import read_yaml
from fedllm.data.prepare import PreparedData, layout
from fedllm.errors import ConfigError, DataError


class _Output(BaseModel):
    path: str
    md5: str


class _Stage(BaseModel):
    outs: list[_Output] = []
    params: dict[str, dict[str, object]] = {}  # by file, then by dotted name


class _Lock(BaseModel):
    """What is read of a dvc.lock."""

    stages: dict[str, _Stage]


@dataclass(frozen=True)
class ManagedData:
    """A DVC project whose `params.yaml` means the same data as the configuration at hand."""

    folder: Path  # `data` of the project
    lock: Path
    sha256: str  # of dvc.lock: the tag `data.dvc_lock_sha256`


def managed_data(config: FederationConfig, project: Path) -> ManagedData | None:
    """The project's managed data when `config` means exactly them, else None.

    They were made by the parameters that `dvc.lock` has on record; a `params.yaml` that was edited since
    means others.
    """
    lock, params = project / "dvc.lock", project / "params.yaml"
    if not (lock.is_file() and params.is_file()):
        return None
    try:
        managed = load_federation(params)
    except ConfigError:
        return None
    if (managed.seed, managed.simulation, managed.evaluation.public) != (
        config.seed,
        config.simulation,
        config.evaluation.public,
    ):
        return None
    if not _made_by(read_yaml(params.read_text(encoding="utf-8")), lock):
        return None
    return ManagedData(project / "data", lock, hashlib.sha256(lock.read_bytes()).hexdigest())


def check_lock(managed: ManagedData, config: FederationConfig) -> PreparedData:
    """The managed files, when every one is as `dvc.lock` has it.

    Raises:
        DataError: a file differs from the lock.
    """
    prepared = layout(config, managed.folder)
    locked = _locked(managed.lock)
    for path in (*prepared.sites.values(), prepared.public):
        name = path.relative_to(managed.folder.parent).as_posix()
        if not path.is_file() or locked.get(name) != _md5(path):
            raise DataError(
                f"{name} is not as dvc.lock has it: `dvc repro` makes it anew, --allow-dirty uses it as it is"
            )
    return prepared


def _md5(path: Path) -> str:
    """DVC's own content hash, not a defence."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _made_by(params: object, lock: Path) -> bool:
    """Whether the stages that made the data did so by these parameters."""
    made = [stage for stage in _read(lock).stages.values() if any(map(_is_data, stage.outs))]
    recorded = [entry for stage in made for entry in stage.params.get("params.yaml", {}).items()]
    return all(_at(params, name) == value for name, value in recorded)


def _is_data(out: _Output) -> bool:
    return Path(out.path).parts[:1] == ("data",)


def _at(params: object, name: str) -> object:
    """The value at a dotted name; None where there is none."""
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _locked(lock: Path) -> dict[str, str]:
    """md5 by path of every output in a dvc.lock."""
    return {out.path: out.md5 for stage in _read(lock).stages.values() for out in stage.outs}


def _read(lock: Path) -> _Lock:
    try:
        return _Lock.model_validate(read_yaml(lock.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError):
        raise DataError(f"{lock} cannot be read: restore it from git") from None
