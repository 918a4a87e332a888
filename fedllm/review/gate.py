"""What one gate found."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Gate:
    """One gate: `fail` refuses a promotion. `not observable` lets it pass and is never shown as a pass."""

    name: str
    verdict: Literal["pass", "fail", "not observable"]
    says: str  # a sentence

    @property
    def words(self) -> str:
        """`quality: pass, …`."""
        return f"{self.name}: {self.verdict}, {self.says}"
