"""Cells of cards: whatever a site or a reviewer wrote stays text."""

import pytest
from markdown_it import MarkdownIt

from fedllm.tracking.markdown import cell, table

HOSTILE = [
    "![x](https://evil.example/p.png) [approve here](https://evil.example)",
    "a\\| **accepted** |",
    "<img src=x onerror=alert(1)>",
    "`code` _so_ *so* ~~gone~~ &lt;",
    "[ref][id] <https://evil.example>",
    "one\ntwo | three",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_what_was_written_and_nothing_more(text: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(table(["why"], [[cell(text)]]))
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 2, "the table's shape is kept"
    kinds = {child.type for child in inline[1].children or []}
    assert kinds <= {"text", "text_special"}
    assert "".join(child.content for child in inline[1].children or []) == " ".join(text.split())


def test_addresses_are_no_links_in_githubs_dialect() -> None:
    told = cell("see https://evil.example, www.evil.example or ann@evil.example")
    assert not any(address in told for address in ("https://", "www.", "n@e"))


def test_a_long_cell_is_cut() -> None:
    assert cell("x" * 100, 60) == "x" * 59 + "…"
