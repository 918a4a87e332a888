"""What the other pages say to type works, page by page in a fresh clone."""

from pathlib import Path

import pytest
from page_blocks import named, pages, steps
from page_shell import run_page

pytestmark = [pytest.mark.stack, pytest.mark.slow("a page of commands, on a stack of its own")]

# Long pages have a file of their own, so that they can run beside each other.
ELSEWHERE = {"README.md", "docs/operations.md", "docs/tutorial.md"}
FEW = {"docs/deploy.md", "docs/observing.md"}  # commands: they are not worth a server of warm ones
TYPED = [page for page in pages() if named(page) not in ELSEWHERE and steps(page)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", TYPED, ids=named)
def test_the_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path, cold=10**6 if named(page) in FEW else 0)


def test_the_pages_that_run_elsewhere_are_there() -> None:
    assert {named(page) for page in pages()} >= ELSEWHERE
