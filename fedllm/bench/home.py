"""Give a benchmark its own home, apart from the user's federations and servers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from fedllm.config.home import cache_dir

# Variables that would point to the user's own journal or store.
_UNSET = ("FEDLLM_JOURNAL_URL", "FEDLLM_ACCESS_KEY", "FEDLLM_SECRET_KEY", "FEDLLM_CA_FILE")


@contextmanager
def home_in(folder: Path) -> Iterator[None]:
    """Move this process' home below a folder, and keep its caches. Restores the environment on exit."""
    variables = {"FEDLLM_HOME": str(folder / "home"), "FEDLLM_CACHE": str(cache_dir())}
    with patch.dict(os.environ, variables):
        for name in _UNSET:
            os.environ.pop(name, None)
        yield
