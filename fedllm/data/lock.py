"""Data under DVC: a run checks that they match `dvc.lock`."""

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
    """The parts of a dvc.lock that are read."""

    stages: dict[str, _Stage]


@dataclass(frozen=True)
class ManagedData:
    """A DVC project whose `params.yaml` describes the same data as the configuration."""

    folder: Path  # `data` of the project
    lock: Path
    sha256: str  # of dvc.lock: the tag `data.dvc_lock_sha256`


def managed_data(config: FederationConfig, project: Path) -> ManagedData | None:
    """Return the project's managed data if `config` describes exactly these, else None.

    The data were made with the parameters that `dvc.lock` records; a `params.yaml` edited since then
    describes other data.
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
    """Return the managed files, if all match `dvc.lock`.

    Raises:
        DataError: a file differs from the lock.
    """
    prepared = layout(config, managed.folder)
    locked = _locked(managed.lock)
    for path in (*prepared.sites.values(), prepared.public):
        name = path.relative_to(managed.folder.parent).as_posix()
        if not path.is_file() or locked.get(name) != _md5(path):
            raise DataError(
                f"{name} differs from dvc.lock: `dvc repro` makes it again, --allow-dirty uses it as it is"
            )
    return prepared


def _md5(path: Path) -> str:
    """Return DVC's content hash, which is no protection against tampering."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _made_by(params: object, lock: Path) -> bool:
    """Return whether the stages that made the data used these parameters."""
    made = [stage for stage in _read(lock).stages.values() if any(map(_is_data, stage.outs))]
    recorded = [entry for stage in made for entry in stage.params.get("params.yaml", {}).items()]
    return all(_at(params, name) == value for name, value in recorded)


def _is_data(out: _Output) -> bool:
    return Path(out.path).parts[:1] == ("data",)


def _at(params: object, name: str) -> object:
    """Return the value at a dotted name, or None."""
    for part in name.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _locked(lock: Path) -> dict[str, str]:
    """Return the md5 of every output in a dvc.lock, by path."""
    return {out.path: out.md5 for stage in _read(lock).stages.values() for out in stage.outs}


def _read(lock: Path) -> _Lock:
    try:
        return _Lock.model_validate(read_yaml(lock.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError):
        raise DataError(f"{lock} cannot be read: restore it from git") from None
