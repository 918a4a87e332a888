"""What the verbs print: one JSON object on stdout when asked for it, words otherwise; progress on stderr."""

import json
import sys
from functools import cache
from typing import TYPE_CHECKING

from fedllm.logs import wants_json

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> "Console":
    """The console for progress and remarks: stderr, so that stdout stays clean; none where logs are JSON."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=wants_json())


def emit(as_json: bool, payload: dict[str, object], text: str = "") -> None:
    """Write a verb's result to stdout: the payload as one line of JSON, or the text."""
    if as_json:
        sys.stdout.write(json.dumps(payload, ensure_ascii=False) + "\n")
    elif text:
        sys.stdout.write(text + "\n")
    sys.stdout.flush()
