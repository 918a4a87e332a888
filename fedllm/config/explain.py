"""What is wrong with a configuration, in one line: where, and what would be right."""

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
_LONGEST = 60  # characters of a value that are shown


def faults(model: type[BaseModel], error: ValidationError) -> dict[tuple[str | int, ...], str]:
    """What is wrong, by the path of the setting; the path is empty for the configuration as a whole.

    A setting that may be one thing or another has one fault, with what is missing of each.
    """
    found: dict[tuple[str | int, ...], list[str]] = {}
    for fault in error.errors():
        path = settings_path(model, fault["loc"])
        texts = found.setdefault(path, [])
        text = _text(model, path, fault)
        if text not in texts:
            texts.append(text)
    return {path: _joined(texts) for path, texts in found.items() if not _is_other_choice(model, path, found)}


def _is_other_choice(
    model: type[BaseModel], path: tuple[str | int, ...], found: Iterable[tuple[str | int, ...]]
) -> bool:
    """Whether a fault only says what else a setting could be, and another lies inside what was meant."""
    deeper = any(len(other) > len(path) and other[: len(path)] == path for other in found)
    return deeper and len(members(type_at(model, [str(part) for part in path]))) > 1


def settings_path(model: type[BaseModel], loc: Iterable[str | int]) -> tuple[str | int, ...]:
    """Where a fault is, without the names that pydantic gives to the members of a union."""
    path: list[str | int] = []
    here: Any = model
    for part in loc:
        nested = [one for one in members(here) if isinstance(one, type) and issubclass(one, BaseModel)]
        others = [one for one in members(here) if one not in nested]
        if nested and isinstance(part, str) and (part in nested[0].model_fields or not others):
            found = nested[0].model_fields.get(part)
            here = found.annotation if found else None
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
    """Whether a part of a path is pydantic's word for a type, such as `tuple[constrained-str, ...]`."""
    return "[" in part or part in {"int", "str", "float", "bool", "[key]"}


def _text(model: type[BaseModel], path: tuple[str | int, ...], fault: ErrorDetails) -> str:
    """One fault as a sentence that begins with the setting's name."""
    name = ".".join(map(str, path))
    if fault["type"] == "extra_forbidden":
        known = known_keys(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(known)})"
        return f"unknown key {name!r}{hint}"
    if fault["type"] == "missing":
        return f"{name} is missing"
    text = _in_words(fault)
    # What several settings say together names them itself.
    return text if not name or text.startswith((f"{name} ", f"{name}.")) else f"{name}: {text}"


def _in_words(fault: ErrorDetails) -> str:
    """What is wrong with a value, without the name of its setting."""
    kind, value = fault["type"], shown(fault["input"])
    rule = PATTERNS.get(fault["ctx"]["pattern"]) if kind == "string_pattern_mismatch" else None
    if rule:
        return f"{value} cannot be one: {rule}"
    if kind in _WORDS:
        return f"{_WORDS[kind]}, not {value}"
    return fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _joined(texts: list[str]) -> str:
    """Several faults of one setting in one text, which names the setting and its value once."""
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
    """A value as it may stand in a line: short, without line breaks."""
    if value is None:
        return "nothing"
    text = re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def known_keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Names of the keys allowed under a path."""
    here: Any = model
    for part in path:
        found = here.model_fields.get(part)
        kinds = members(found.annotation) if found else []
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            return []
        here = nested[0]
    return sorted(here.model_fields)
