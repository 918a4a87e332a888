"""Read the YAML files, apply `--set a.b=c`, and turn every fault into one clear line."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedllm.config.federation import FederationConfig
from fedllm.config.site import SiteConfig
from fedllm.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; the configuration means a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def load_federation(path: str | Path, overrides: Iterable[str] = ()) -> FederationConfig:
    """Read a federation file.

    Args:
        path: a YAML file.
        overrides: texts such as `rounds.max=5`; the value is YAML.

    Raises:
        ConfigError: with the file, the field and what would be right.
    """
    raw = _read(Path(path))
    for override in overrides:
        _apply(raw, override)
    return _beside(_validate(FederationConfig, raw, str(path)), Path(path).resolve().parent)


def _beside(config: FederationConfig, folder: Path) -> FederationConfig:
    """Files that a federation file names are relative to it, wherever a worker happens to run."""
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
    site = _validate(SiteConfig, _read(file), str(path))
    ledger = (file.parent / site.ledger).resolve() if site.ledger else None
    return site.model_copy(update={"data": (file.parent / site.data).resolve(), "ledger": ledger})


def read_yaml(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Read YAML as all of fedllm's files are read. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write it as key.part=value, such as rounds.max=5")
    *parents, last = key.split(".")
    here = raw
    for part in parents:
        below = here.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {override!r}: {part} is a value, not a group of settings")
        here = below
    try:
        here[last] = read_yaml(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {value!r} is not a YAML value") from None


def _validate(model: type[Model], raw: Mapping[str, Any], where: str) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(model, error)}") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    faults = []
    for fault in error.errors():
        path = [str(part) for part in fault["loc"]]
        name = ".".join(path)
        if fault["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _known(model, path[:-1]), n=1, cutoff=0.5)
            hint = (
                f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(_known(model, path[:-1]))})"
            )
            faults.append(f"unknown key {name!r}{hint}")
        else:
            text = fault["msg"].removeprefix("Value error, ")
            faults.append(f"{name}: {text}" if name else text)
    return "; ".join(dict.fromkeys(faults))


def _known(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the keys allowed under `path`."""
    here: Any = model
    for part in path:
        annotation = here.model_fields[part].annotation
        choices = getattr(annotation, "__args__", (annotation,))
        nested = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        here = nested[0]
    return sorted(here.model_fields)
