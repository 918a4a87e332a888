"""Secrets of the stack that are generated once and stored in a file of mode 600."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import StackError
from fedllm.secure.identity import read_private

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def kept_secrets(place: StackPaths, name: str, kind: type[T], draw: Callable[[], T], remedy: str) -> T:
    """Load secrets from a file of mode 600 in the stack's folder; generate and store them if it is missing.

    Args:
        place: the stack's place.
        name: of the file.
        kind: a dataclass whose fields are strings.
        draw: generates new secrets.
        remedy: advice for a damaged file.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read the file.
    """
    path = place.folder / name
    if path.exists():
        try:
            kept = json.loads(read_private(path))
            return kind(**{key: str(value) for key, value in kept.items()})
        except (ValueError, TypeError, AttributeError):
            raise StackError(f"{path} is damaged: {remedy}") from None
    drawn = draw()
    place.write_private(path, json.dumps(asdict(drawn), indent=1))
    return drawn
