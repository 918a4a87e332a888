"""What a page of the documentation asks its reader to type, in the order in which it stands there.

Comments say what a reader does not see:

    <!-- setup: COMMANDS -->           what gives the page's names a value; run where it stands
    <!-- check: COMMANDS -->           the same, after what it looks at
    <!-- not run: REASON -->           of the block that follows
    <!-- runs until stopped -->        of the block that follows: it is started beside the others
    <!-- run instead: COMMANDS because REASON -->    of the block that follows; `because` begins a line
    <!-- at: MACHINE -->               where the blocks from here on are typed
    <!-- send: MACHINE:FILE MACHINE:FILE -->         what people send each other
    <!-- tell: MACHINE:NAME MACHINE -->              and read out over the telephone: a shell variable

README holds no such comments: `readme_blocks` says the same of its blocks.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from markdown_it import MarkdownIt
from readme_blocks import README_BLOCKS, Treatment

ROOT = Path(__file__).parents[2]
TREATMENTS = {"README.md": README_BLOCKS}
COMMANDS = {"bash", "python"}
PROSE = {"text", "yaml", "json", "nginx", "ini"}  # shown, and not for typing
# A line that begins so is a command, whatever its block is said to be.
TYPED = re.compile(
    r"^\s*(?:\$ |(?:fedllm|make|prefect|python3?|pip|dvc|mkdocs|docker|kubectl|helm|juicefs|systemctl|sudo"
    r"|curl|scp|ssh|export|git) )"
)

Kind = Literal["setup", "check", "block", "not run", "instead", "beside", "at", "send", "tell"]


@dataclass(frozen=True)
class Step:
    """One thing that happens on a page."""

    page: str
    line: int  # from 1
    kind: Kind
    text: str  # commands, or what a comment says
    language: str = "bash"
    reason: str = ""

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README and every page below docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    """A page's path inside the repository."""
    return path.relative_to(ROOT).as_posix()


def indented(path: Path) -> list[int]:
    """Lines of code blocks that have no fence, and so no language."""
    return [token.map[0] + 1 for token in _tokens(path) if token.type == "code_block" and token.map]


def fences(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of every fenced block."""
    for token in _tokens(path):
        if token.type == "fence" and token.map:
            yield token.map[0] + 1, (token.info.split() or [""])[0], token.content


def steps(path: Path) -> list[Step]:
    """What happens on a page, in order.

    Raises:
        ValueError: a comment belongs to a block, and none follows; or a treatment is of no block of the page.
    """
    page, found = named(path), []
    treatments = list(TREATMENTS.get(page, []))
    waiting: Step | None = None
    for token in _tokens(path):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for step in _comments(page, line, token.content):
                if step.kind in {"setup", "check", "at", "send", "tell"}:
                    found.append(step)
                elif waiting is not None:
                    raise ValueError(f"{waiting.place}: no command block follows")
                else:
                    waiting = step
        elif token.type == "fence":
            language = (token.info.split() or [""])[0]
            shown = Step(page, line, "block", token.content, language)
            found += _treated(shown, treatments) or _remarked(shown, waiting)
            waiting = None
        elif waiting is not None and token.type in {"heading_open", "paragraph_open", "table_open"}:
            raise ValueError(f"{waiting.place}: no command block follows")
    if waiting is not None:
        raise ValueError(f"{waiting.place}: no command block follows")
    if treatments:
        raise ValueError(f"{page}: no block begins with {treatments[0].block!r}")
    return found


def _tokens(path: Path) -> list:  # type: ignore[type-arg]  # markdown-it's tokens
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def _comments(page: str, line: int, html: str) -> Iterator[Step]:
    for match in re.finditer(r"<!--(.*?)-->", html, flags=re.DOTALL):
        at = line + html[: match.start()].count("\n")
        said = match[1].strip()
        if said == "runs until stopped":
            yield Step(page, at, "beside", "")
        elif said.startswith("run instead:"):
            commands, because, reason = said.removeprefix("run instead:").partition("\nbecause ")
            if not because:
                raise ValueError(f"{page}:{at}: a line that begins with `because` is missing")
            yield Step(page, at, "instead", commands.strip(), reason=reason.strip())
        else:
            kind, colon, text = said.partition(":")
            if colon and kind in {"setup", "check", "not run", "at", "send", "tell"}:
                reason = text.strip() if kind == "not run" else ""
                yield Step(page, at, kind, text.strip(), reason=reason)  # type: ignore[arg-type]


def _remarked(block: Step, remark: Step | None) -> list[Step]:
    """A block as the comment before it has it; empty for prose without one."""
    if remark is None:
        return [block] if block.language in COMMANDS else []
    if remark.kind == "instead":
        return [replace(block, kind="instead", text=remark.text, language="bash", reason=remark.reason)]
    return [replace(block, kind=remark.kind, reason=remark.reason)]


def _treated(block: Step, treatments: list[Treatment]) -> list[Step]:
    """A block as its treatment has it, which is taken off the list; empty without one."""
    treatment = next((one for one in treatments if block.text.startswith(one.block)), None)
    if treatment is None:
        return []
    treatments.remove(treatment)
    before = [Step(block.page, block.line, "setup", treatment.before)] if treatment.before else []
    if treatment.how == "instead":
        stand_in = replace(block, kind="instead", text=treatment.instead, language="bash")
        return [*before, replace(stand_in, reason=treatment.reason)]
    return [*before, replace(block, kind=treatment.how, reason=treatment.reason)]
