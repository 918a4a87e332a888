"""What the documents claim is shown by tests and files that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def words(path: Path) -> str:
    """A page as its readers see it: what it says to its test is no claim."""
    return re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


DOCUMENTS = {name: words(ROOT / "docs" / name) for name in ("privacy.md", "compliance.md")}
PAGES = [words(path) for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
MADE = {"infra/.env"}  # files that a page has its reader make
TEST = r"tests/[\w/]+\.py::\w+"


@cache
def known_tests(path: Path) -> set[str]:
    """Functions of a test file, and what hypothesis builds: `TestSchedules = Machine.TestCase`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.lower().startswith("test")}


def named(pattern: str) -> list[str]:
    """What any page names."""
    return sorted({match for text in PAGES for match in re.findall(pattern, text)})


def rows(text: str) -> list[str]:
    """Last cells of the rows of all tables that end in `shown by`."""
    cells = []
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        heading, _, *body = table.splitlines()
        if heading.rstrip("| ").endswith("shown by"):
            cells += [row.strip().strip("|").rpartition("|")[2].strip() for row in body]
    return cells


@pytest.mark.parametrize("test", named(TEST))
def test_a_test_that_a_document_names_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert (ROOT / path).is_file(), f"there is no {path}"
    assert name in known_tests(ROOT / path), f"{path} has no test {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_row_that_says_what_shows_it_names_a_test(document: str) -> None:
    cells = rows(DOCUMENTS[document])
    assert len(cells) >= 10
    assert [cell for cell in cells if not re.search(TEST, cell)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_test_is_named_with_its_file_and_a_file_with_its_test(document: str) -> None:
    text = DOCUMENTS[document]
    assert set(re.findall(r"tests/[\w/]+\.py", text)) == {
        one.split("::")[0] for one in re.findall(TEST, text)
    }


@pytest.mark.parametrize(
    "link", sorted(set(named(r"`((?:docs|tests|fedllm|flows|examples|infra)/[\w./-]+)`")) - MADE)
)
def test_a_file_that_a_document_names_exists(link: str) -> None:
    assert (ROOT / link).exists()
