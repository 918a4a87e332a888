"""The reader of pages sees what a person sees, and misses nothing that should be run."""

from pathlib import Path

import page_blocks
import pytest
from page_blocks import ROOT, fences, indented, steps
from readme_blocks import Treatment


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page_blocks, "ROOT", tmp_path)
    return tmp_path / "page.md"


def test_blocks_come_in_order_with_their_line_and_what_the_comment_before_says(page: Path) -> None:
    page.write_text(
        "# A page\n\n<!-- setup:\nA=1\nB=2 -->\n\n```bash\necho $A\n```\n\n"
        "<!-- not run: it needs a second machine -->\n\n```bash\nscp a b:\n```\n\n"
        "<!-- run instead:\nsleep 0\nbecause an hour is long -->\n```bash\nsleep 3600\n```\n\n"
        "- in a list\n\n    ```python\n    print(1)\n    ```\n"
    )
    found = [(step.line, step.kind, step.text, step.language) for step in steps(page)]
    assert found == [
        (3, "setup", "A=1\nB=2", "bash"),
        (7, "block", "echo $A\n", "bash"),
        (13, "not run", "scp a b:\n", "bash"),
        (20, "instead", "sleep 0", "bash"),
        (26, "block", "print(1)\n", "python"),
    ]


def test_a_reason_without_its_block_is_an_error(page: Path) -> None:
    page.write_text("<!-- not run: it needs a cluster -->\n\nSome words.\n\n```bash\ntrue\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:1: no command block follows"):
        steps(page)


def test_a_stand_in_without_a_reason_is_an_error(page: Path) -> None:
    page.write_text("<!-- run instead: true -->\n```bash\nfalse\n```\n")
    with pytest.raises(ValueError, match="because"):
        steps(page)


def test_indented_blocks_and_languages_are_seen(page: Path) -> None:
    page.write_text("words\n\n    fedllm up\n\n```\nfedllm down\n```\n")
    assert indented(page) == [3]
    assert list(fences(page)) == [(5, "", "fedllm down\n")]


def test_a_treatment_prepares_replaces_or_skips_the_block_that_begins_with_its_words(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write_text("```bash\nfedllm up\n```\n\n```bash\nmake demo\n```\n\n```bash\nmake check\n```\n")
    treatments = [
        Treatment("fedllm up", before="touch public.jsonl"),
        Treatment("make demo", how="instead", instead="fedllm demo", reason="the set-up is done"),
        Treatment("make check", how="not run", reason="it is the test suite"),
    ]
    monkeypatch.setitem(page_blocks.TREATMENTS, "page.md", treatments)
    assert [(step.line, step.kind, step.text, step.reason) for step in steps(page)] == [
        (1, "setup", "touch public.jsonl", ""),
        (1, "block", "fedllm up\n", ""),
        (5, "instead", "fedllm demo", "the set-up is done"),
        (9, "not run", "make check\n", "it is the test suite"),
    ]


def test_a_treatment_of_a_block_that_the_page_has_not_is_an_error(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write_text("```bash\nfedllm up\n```\n")
    monkeypatch.setitem(page_blocks.TREATMENTS, "page.md", [Treatment("fedllm down", before="true")])
    with pytest.raises(ValueError, match=r"page\.md: no block begins with 'fedllm down'"):
        steps(page)


def test_the_readme_is_short_and_holds_no_remarks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!--" not in text
    assert len(text.splitlines()) <= 250
