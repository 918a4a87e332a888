"""What mkdocs makes of these pages beyond Markdown: README as the first page, the decisions, no remarks."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
REMARK = re.compile(r"<!--.*?-->\n?", re.DOTALL)


def on_config(config: Any) -> Any:  # noqa: ANN401 - mkdocs' own types
    """List the decisions by their numbers: a new one needs no line in mkdocs.yml."""
    found = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    config.nav.append({"Decisions": [f"decisions/{path.name}" for path in found]})
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:  # noqa: ANN401 - mkdocs' own types
    """Take README for the index, and drop comments: they tell tests/docs how a block is run."""
    source = Path(page.file.src_uri)
    if source.name == "index.md":
        source, markdown = Path("../README.md"), (ROOT / "README.md").read_text(encoding="utf-8")
    folder = (DOCS / source).resolve().parent
    return REMARK.sub("", LINK.sub(lambda link: _inside(link, folder), markdown))


def _inside(link: re.Match[str], folder: Path) -> str:
    """A link of a page in `folder` as the site has it; a file that the site has not is plain words."""
    picture, words, target = link.groups()
    path, mark, anchor = target.partition("#")
    there = (folder / path).resolve()
    if "://" in target or not path or not there.exists():
        return link[0]  # to another site, within the page, or to nowhere: that is for mkdocs to say
    if not there.is_file() or not there.is_relative_to(DOCS):
        return words
    return f"{picture}[{words}]({path.removeprefix('docs/')}{mark}{anchor})" if folder == ROOT else link[0]
