"""What README.md says to type works, in this order, in a fresh clone."""

from pathlib import Path

import pytest
from page_blocks import ROOT
from page_shell import run_page

pytestmark = [pytest.mark.stack, pytest.mark.slow("a page of commands, on a stack of its own")]


@pytest.mark.timeout(3600)
def test_the_blocks_of_the_readme_run_in_order(tmp_path: Path) -> None:
    run_page(ROOT / "README.md", tmp_path, starts_a_stack=True, cold=1)  # `make demo`
