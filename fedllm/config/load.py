"""Read federation and site files, apply `--set a.b=c`, and report faults in one line."""

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedllm.config.explain import faults, shown
from fedllm.config.federation import FederationConfig
from fedllm.config.overrides import Override, apply_all
from fedllm.config.site import SiteConfig
from fedllm.config.yaml_text import read_yaml
from fedllm.errors import ConfigError

_FEDERATION = re.compile(r"(?m)^task:")  # only federation files have this key
_BEGINNING = 64 * 1024  # characters read to recognise a federation file
_NAMED = 5  # most files that a message names

Model = TypeVar("Model", bound=BaseModel)


def load_federation(path: str | Path, overrides: Iterable[str] = ()) -> FederationConfig:
    """Read a federation file.

    Args:
        path: a YAML file.
        overrides: texts such as `rounds.max=5`. The value is YAML; for a setting that holds text it is
            taken as is, such as `task.template={body}`.

    Raises:
        ConfigError: names the file or the `--set`, the field and what would be valid.
    """
    file = _read(Path(path), "`fedllm new` writes one")
    raw = copy.deepcopy(file)
    applied = apply_all(raw, overrides, FederationConfig)
    try:
        config = FederationConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_blamed(faults(FederationConfig, error), str(path), file, applied)) from None
    return _beside(config, Path(path).resolve().parent)


def _beside(config: FederationConfig, folder: Path) -> FederationConfig:
    """Resolve the files named in a federation file relative to its folder, not to the working folder."""
    public = folder / config.evaluation.public
    if public.is_file():
        evaluation = config.evaluation.model_copy(update={"public": str(public)})
        config = config.model_copy(update={"evaluation": evaluation})
    if config.simulation is not None and (folder / config.simulation.source).is_file():
        source = str(folder / config.simulation.source)
        simulation = config.simulation.model_copy(update={"source": source})
        config = config.model_copy(update={"simulation": simulation})
    return config


def load_site(path: str | Path) -> SiteConfig:
    """Read a site file; a relative `data` path is relative to the file's folder."""
    file = Path(path)
    site = _validate(SiteConfig, _read(file, "`fedllm site init` writes one"), str(path))
    ledger = (file.parent / site.ledger).resolve() if site.ledger else None
    return site.model_copy(update={"data": (file.parent / site.data).resolve(), "ledger": ledger})


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        raw = read_yaml(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{_others_beside(path)}; {remedy}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: it is no UTF-8 text ({error.reason})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        raise ConfigError(f"{path}: the file is empty; {remedy}")
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else shown(raw)
        raise ConfigError(f"{path}: expected keys and values such as `name: …`, found {kind}; {remedy}")
    return raw


def _others_beside(path: Path) -> str:
    """Return a hint that names the federation files, or the sites, near a missing file."""
    if path.name == "site.yaml":
        sites = [site.parent.name for site in path.parent.parent.glob("*/site.yaml")]
        return f"; sites there: {', '.join(sorted(sites)[:_NAMED])}" if sites else ""
    files = [file.name for file in path.parent.glob("*.yaml") if _FEDERATION.search(_beginning(file))]
    return f"; there are {', '.join(sorted(files)[:_NAMED])} (--config FILE, `run FILE`)" if files else ""


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_BEGINNING)
    except OSError:
        return ""


def _validate(model: type[Model], raw: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(faults(model, error).values())}") from None


def _blamed(
    wrong: Mapping[tuple[str | int, ...], str], file: str, raw: Mapping[str, Any], overrides: list[Override]
) -> str:
    """Return each fault with its origin: the `--set` that changed the setting, else the file.

    A fault of several settings together, such as a template that names no field, is blamed on the file only
    if the file without any `--set` is invalid too.
    """
    try:
        FederationConfig.model_validate(raw)
        together = ", ".join(map(str, overrides)) or file
    except ValidationError:
        together = file
    texts: dict[str, list[str]] = {}
    for path, fault in wrong.items():
        last = next((override for override in reversed(overrides) if override.decides(path)), None)
        # The `--set` names the setting already.
        text = fault.removeprefix(f"{'.'.join(last.path)}: ") if last else fault
        texts.setdefault(str(last or together), []).append(text)
    return "; ".join(f"{where}: {'; '.join(lines)}" for where, lines in texts.items())
