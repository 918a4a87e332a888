"""A home of a benchmark's own, so that it meets neither the user's federations nor their servers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from fedllm.config.home import cache_dir

# What would lead to the user's own: the journal's database, and the store.
_OTHERS = ("FEDLLM_JOURNAL_URL", "FEDLLM_ACCESS_KEY", "FEDLLM_SECRET_KEY", "FEDLLM_CA_FILE")


@contextmanager
def home_in(folder: Path) -> Iterator[None]:
    """Have this process' home below a folder and its caches where they were; the environment comes back."""
    chosen = {"FEDLLM_HOME": str(folder / "home"), "FEDLLM_CACHE": str(cache_dir())}
    with patch.dict(os.environ, chosen):
        for name in _OTHERS:
            os.environ.pop(name, None)
        yield
