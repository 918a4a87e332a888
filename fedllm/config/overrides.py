"""`--set a.b=c`: one setting of a configuration, given on the command line."""

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
    """One `--set`: which setting, and the text that was given for it."""

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
        """As it was written on the command line."""
        return f"--set {'.'.join(self.path)}={self.text}"

    def apply(self, raw: dict[str, Any], model: type[BaseModel]) -> None:
        """Put the value into a configuration as it was read from its file.

        Args:
            raw: the configuration; changed in place.
            model: what it is a configuration of.

        Raises:
            ConfigError: the value is no YAML, or the path leads through a value.
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

    def _value(self, model: type[BaseModel]) -> Any:  # noqa: ANN401 - whatever YAML holds
        """The value: YAML, but the text as it is where the setting is a text.

        `{body}` is a map for YAML, `2024` a number and `yes` a truth value; for a template, a name or a
        label each is a text. A text in quotes is read without them, and `null` stays nothing.
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
        """Whether a setting, or a part of it, is the one given here."""
        return path[: len(self.path)] == self.path


def apply_all(raw: dict[str, Any], given: Iterable[str], model: type[BaseModel]) -> list[Override]:
    """Apply every `--set` in its order; returns them. Raises `ConfigError` as of `Override`."""
    overrides = [Override.read(one) for one in given]
    for override in overrides:
        override.apply(raw, model)
    return overrides


def type_at(model: type[BaseModel], path: Iterable[str]) -> Any:  # noqa: ANN401 - a type of any kind
    """The type of the setting at a path; None where there is no such setting."""
    here: Any = model
    for part in path:
        here = _below(here, part)
    return here


def holds_text(kind: Any) -> bool:  # noqa: ANN401 - a type of any kind
    """Whether a setting of this type is a text, or a text or nothing."""
    return {one for one in members(kind) if one is not types.NoneType} == {str}


def members(kind: Any) -> list[Any]:  # noqa: ANN401 - types of any kind
    """What a type may be, without annotations: the members of a union, else the type alone."""
    if get_origin(kind) is Annotated:
        return members(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [one for part in get_args(kind) for one in members(part)]
    return [kind]


def _below(kind: Any, part: str) -> Any:  # noqa: ANN401 - types of any kind
    for one in members(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            found = one.model_fields.get(part)
            return found.annotation if found else None
        origin = get_origin(one)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return get_args(one)[1]
    return None
