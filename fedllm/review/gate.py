"""The result of one gate."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Gate:
    """A gate's result. `fail` refuses a promotion; `not observable` allows it, but is not shown as a pass."""

    name: str
    verdict: Literal["pass", "fail", "not observable"]
    says: str  # a sentence

    @property
    def words(self) -> str:
        """Return the result in one line: `quality: pass, …`."""
        return f"{self.name}: {self.verdict}, {self.says}"
