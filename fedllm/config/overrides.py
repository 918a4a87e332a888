"""Apply `--set a.b=c`: change one setting of a configuration from the command line."""

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from fedllm.config.yaml_text import DuplicateKeyError, read_yaml
from fedllm.errors import ConfigError


@dataclass(frozen=True)
class Override:
    """One `--set`: the path of a setting, and the text of its value."""

    path: tuple[str, ...]
    text: str

    @classmethod
    def read(cls, given: str) -> Self:
        """Read `a.b=c`. Raises `ConfigError` for anything else."""
        key, equals, text = given.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            raise ConfigError(f"--set {given!r}: write it as key.part=value, such as rounds.max=5")
        return cls(path, text)

    def __str__(self) -> str:
        """Return it as written on the command line."""
        return f"--set {'.'.join(self.path)}={self.text}"

    def apply(self, raw: dict[str, Any], model: type[BaseModel]) -> None:
        """Put the value into a configuration before its validation.

        Args:
            raw: the configuration as read from its file; changed in place.
            model: its schema.

        Raises:
            ConfigError: the value is no YAML, or a parent in the path is a value.
        """
        *parents, last = self.path
        here = raw
        for part in parents:
            if here.get(part) is None:  # absent, or a key with nothing below it
                here[part] = {}
            below = here[part]
            if not isinstance(below, dict):
                raise ConfigError(f"{self}: {part} is a value, not a group of settings")
            here = below
        here[last] = self._value(model)

    def _value(self, model: type[BaseModel]) -> Any:  # noqa: ANN401 - any YAML value
        """Return the value as YAML reads it, or the text as is if the setting holds text.

        YAML reads `{body}` as a map, `2024` as a number and `yes` as true; for a template, a name or a label
        each of them is text. Quotes around a text are removed, and `null` stays None.
        """
        is_text = holds_text(type_at(model, self.path))
        try:
            value = read_yaml(self.text)
        except yaml.YAMLError as error:
            if is_text:
                return self.text
            if isinstance(error, DuplicateKeyError):
                raise ConfigError(f"{self}: {error}") from None
            raise ConfigError(f"{self}: {self.text!r} is not a YAML value") from None
        return self.text if is_text and value is not None and not isinstance(value, str) else value

    def decides(self, path: tuple[str | int, ...]) -> bool:
        """Return whether this override sets the setting at `path` or a group that holds it."""
        return path[: len(self.path)] == self.path


def apply_all(raw: dict[str, Any], given: Iterable[str], model: type[BaseModel]) -> list[Override]:
    """Apply every `--set` in order, and return them. Raises `ConfigError`, see `Override`."""
    overrides = [Override.read(text) for text in given]
    for override in overrides:
        override.apply(raw, model)
    return overrides


def type_at(model: type[BaseModel], path: Iterable[str]) -> Any:  # noqa: ANN401 - a type of any kind
    """Return the type of the setting at a path; None if there is no such setting."""
    here: Any = model
    for part in path:
        here = _below(here, part)
    return here


def holds_text(kind: Any) -> bool:  # noqa: ANN401 - a type of any kind
    """Return whether a type is `str` or `str | None`."""
    return {member for member in members(kind) if member is not types.NoneType} == {str}


def members(kind: Any) -> list[Any]:  # noqa: ANN401 - types of any kind
    """Return the members of a union type, else the type alone, without annotations."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [member for part in get_args(kind) for member in members(part)]
    return [kind]


def _below(kind: Any, part: str) -> Any:  # noqa: ANN401 - types of any kind
    for member in members(kind):
        if isinstance(member, type) and issubclass(member, BaseModel):
            setting = member.model_fields.get(part)
            return setting.annotation if setting else None
        origin = get_origin(member)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return get_args(member)[1]
    return None
