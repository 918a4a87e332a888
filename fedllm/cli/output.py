"""Print the results of verbs: text, or one JSON object, on stdout; progress on stderr."""

import json
import sys
from functools import cache
from typing import TYPE_CHECKING

from fedllm.logs import wants_json

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> "Console":
    """Return the console for progress and remarks: stderr; quiet if logs are JSON."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=wants_json())


def emit(as_json: bool, payload: dict[str, object], text: str = "") -> None:
    """Write a verb's result to stdout: the payload as one line of JSON, or the text."""
    if as_json:
        sys.stdout.write(json.dumps(payload, ensure_ascii=False) + "\n")
    elif text:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()
