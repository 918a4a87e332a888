"""With this folder on PYTHONPATH some packages are not there, in a process and in all that it starts.

FEDLLM_TEST_ABSENT names a JSON file: `{"modules": [top-level names], "distributions": [canonical names]}`.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path

_ABSENT = json.loads(Path(os.environ["FEDLLM_TEST_ABSENT"]).read_text(encoding="utf-8"))
_MODULES, _DISTRIBUTIONS = set(_ABSENT["modules"]), set(_ABSENT["distributions"])


class _Without(DistributionFinder):
    """What another finder finds, without what is absent."""

    def __init__(self, finder: object) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """None for a module that is absent, as of one that was never installed."""
        if name.partition(".")[0] in _MODULES:
            return None
        return self.finder.find_spec(name, path, target)  # type: ignore[attr-defined]

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        """The installed distributions but for those that are absent."""
        find = getattr(self.finder, "find_distributions", None)
        for found in find(context or DistributionFinder.Context()) if find else ():
            if re.sub(r"[-_.]+", "-", found.metadata["Name"] or "").lower() not in _DISTRIBUTIONS:
                yield found

    def invalidate_caches(self) -> None:
        """Pass it on."""
        if hasattr(self.finder, "invalidate_caches"):
            self.finder.invalidate_caches()


sys.meta_path[:] = [_Without(finder) for finder in sys.meta_path]
