"""Explain what is wrong with a configuration: the setting, and what would be valid, in one line."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedllm.config.frozen import PATTERNS
from fedllm.config.overrides import members, type_at

_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    **dict.fromkeys(("model_type", "dict_type", "mapping_type"), "must be a group of settings"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "must be a list"),
    "path_type": "must be a path",
}
_LONGEST = 60  # characters of a value in a message


def faults(model: type[BaseModel], error: ValidationError) -> dict[tuple[str | int, ...], str]:
    """Return the faults by the path of the setting; the path () means the configuration as a whole.

    A setting of a union type has one fault, which tells what is wrong for each of its types.
    """
    seen: dict[tuple[str | int, ...], list[str]] = {}
    for fault in error.errors():
        path = settings_path(model, fault["loc"])
        texts = seen.setdefault(path, [])
        text = _text(model, path, fault)
        if text not in texts:
            texts.append(text)
    return {path: _joined(texts) for path, texts in seen.items() if not _is_other_choice(model, path, seen)}


def _is_other_choice(
    model: type[BaseModel], path: tuple[str | int, ...], paths: Iterable[tuple[str | int, ...]]
) -> bool:
    """Return whether a fault is about another type of a union than the one with faults below it."""
    deeper = any(len(other) > len(path) and other[: len(path)] == path for other in paths)
    return deeper and len(members(type_at(model, [str(part) for part in path]))) > 1


def settings_path(model: type[BaseModel], loc: Iterable[str | int]) -> tuple[str | int, ...]:
    """Return the path of a fault, without the parts that pydantic adds for the members of a union."""
    path: list[str | int] = []
    here: Any = model
    for part in loc:
        nested = [kind for kind in members(here) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        others = [kind for kind in members(here) if kind not in nested]
        if nested and isinstance(part, str) and (part in nested[0].model_fields or not others):
            setting = nested[0].model_fields.get(part)
            here = setting.annotation if setting else None
            path.append(part)
        elif isinstance(part, int) or _is_mapping(others):
            here = None
            path.append(part)
        elif here is None and not _names_type(part):
            path.append(part)
    return tuple(path)


def _is_mapping(kinds: list[Any]) -> bool:
    origins = [get_origin(kind) for kind in kinds]
    return any(isinstance(origin, type) and issubclass(origin, Mapping) for origin in origins)


def _names_type(part: str) -> bool:
    """Return whether a part of a path is pydantic's name of a type, such as `tuple[constrained-str, ...]`."""
    return "[" in part or part in {"int", "str", "float", "bool", "[key]"}


def _text(model: type[BaseModel], path: tuple[str | int, ...], fault: ErrorDetails) -> str:
    """Return one fault as a sentence that begins with the setting's name."""
    name = ".".join(map(str, path))
    if fault["type"] == "extra_forbidden":
        keys = known_keys(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), keys, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(keys)})"
        return f"unknown key {name!r}{hint}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    text = _in_words(fault)
    # A fault of several settings together names them itself.
    return text if not name or text.startswith((f"{name} ", f"{name}.")) else f"{name}: {text}"


def _in_words(fault: ErrorDetails) -> str:
    """Return what is wrong with a value, without the name of its setting."""
    kind, value = fault["type"], shown(fault["input"])
    rule = PATTERNS.get(fault["ctx"]["pattern"]) if kind == "string_pattern_mismatch" else None
    if rule:
        return f"{value} cannot be one: {rule}"
    if kind in _WORDS:
        return f"{_WORDS[kind]}, not {value}"
    return fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _joined(texts: list[str]) -> str:
    """Join the faults of one setting into one text that names the setting and its value once."""
    head, colon, _ = texts[0].partition(": ")
    if len(texts) == 1 or not colon or not all(text.startswith(head + colon) for text in texts):
        return "; ".join(texts)
    choices, values = [], dict[str, None]()
    for text in texts:
        choice, comma, value = text.removeprefix(head + colon).partition(", not ")
        choices.append(choice)
        if comma:
            values[comma + value] = None
    return head + colon + " or ".join(choices) + "".join(values)


def shown(value: object) -> str:
    """Return a value as short text without line breaks."""
    if value is None:
        return "nothing"
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def known_keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the names of the keys allowed under a path, sorted."""
    here: Any = model
    for part in path:
        setting = here.model_fields.get(part)
        kinds = members(setting.annotation) if setting else []
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            return []
        here = nested[0]
    return sorted(here.model_fields)
