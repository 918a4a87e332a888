"""Read YAML: `1e-3` is a number, and duplicate keys are an error."""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, ScalarNode


class _Loader(yaml.SafeLoader):
    """A safe loader that reads `1e-3`, text in YAML 1.1, as a number and refuses duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:  # noqa: ANN401 - the type of the base class
        """Compose a mapping. Raises `DuplicateKeyError` if a key is in it twice."""
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise DuplicateKeyError(key.value, lines[name], line)
                lines[name] = line
        return node


class DuplicateKeyError(yaml.YAMLError):
    """A key is in one mapping twice, of which YAML itself would silently take the last."""

    def __init__(self, key: str, first: int, second: int) -> None:
        where = f"twice in line {first}" if first == second else f"in line {first} and in line {second}"
        super().__init__(f"the key {key!r} is written {where}: keep one of them")


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def read_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Read a YAML document.

    Raises:
        DuplicateKeyError: a key is in one mapping twice.
        yaml.YAMLError: it is no YAML, or holds an impossible value, such as the date 2026-13-45.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from None
