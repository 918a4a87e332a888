"""Ask every verb that a page lists under `## Commands` for its help: `python every_verb.py PAGE`.

A line such as `fedllm site init | add` lists `fedllm site init` and `fedllm site add`: what is a group of
verbs, with one of its own behind it, belongs to all of its row.
"""

import re
import sys
from pathlib import Path
from typing import Any

import typer

from fedllm.cli.main import app


def listed(text: str) -> set[tuple[str, ...]]:
    """Verbs of the block, as tuples of words."""
    block = text.partition("## Commands")[2].split("```")[1]
    found: set[tuple[str, ...]] = set()
    for row in re.findall(r"fedllm (.*?)(?=\s*fedllm |\n)", block):
        group: tuple[str, ...] = ()
        for part in row.split("|"):
            words = tuple(word for word in part.split() if word.islower())
            if len(words) > 1:
                group, words = words[:1], words[1:]
            found.add((*group, *words))
    return found


def known(command: Any, words: tuple[str, ...] = ()) -> set[tuple[str, ...]]:  # noqa: ANN401 - of typer's own click
    """Verbs of the command line."""
    below = getattr(command, "commands", None)
    if below is None:
        return set() if command.hidden else {words}
    return {one for name, child in below.items() for one in known(child, (*words, name))}


def main(page: Path) -> int:
    """Exit code 1 when the page lists what there is not, or not what there is."""
    told, there = listed(page.read_text(encoding="utf-8")), known(typer.main.get_command(app))
    groups = {words[:1] for words in there if len(words) > 1}
    unknown = {words for words in told if words not in there | groups}
    missing = {words for words in there if words not in told and words[:1] not in told}
    for words in sorted(unknown):
        sys.stderr.write(f"{page} lists fedllm {' '.join(words)}, which there is not\n")
    for words in sorted(missing):
        sys.stderr.write(f"{page} does not list fedllm {' '.join(words)}\n")
    return 1 if unknown or missing else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
