"""A real browser: Debian's chromium."""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SLOW = 240_000  # ms: a machine with other work to do is slow
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.example 127.0.0.1",  # as names of a stranger's may lead here
]


@pytest.fixture(scope="module")  # its event loop may not outlive the file: other libraries look for one
def chromium() -> Iterator["Browser"]:
    """Debian's chromium. A machine without it fails, unless FEDLLM_NO_BROWSER says that it has none."""
    if os.environ.get("FEDLLM_NO_BROWSER"):
        pytest.skip("FEDLLM_NO_BROWSER is set: nothing was looked at in a browser")
    path = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("no chromium here: apt-get install -y chromium, or set FEDLLM_NO_BROWSER=1 to do without")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:  # a profile of its own, empty, for every start
        browser = driver.chromium.launch(executable_path=path, args=QUIET, timeout=SLOW)
        yield browser
        browser.close()
