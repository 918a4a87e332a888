"""The files of work under way: readable by the site only, and deleted when no longer needed."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedllm.config.home import private_dir
from fedllm.disk import is_full, write_whole

_RESIDUAL = ".residual"


@dataclass(frozen=True)
class WorkFolder:
    """A site's `work` folder, mode 700; its files are mode 600."""

    path: Path

    def model(self, run: str, number: int) -> Path:
        """Return the path of the round's opened global adapter."""
        return self.path / f"{run}-{number}.model"

    def update(self, run: str, number: int) -> Path:
        """Return the path of the round's unsealed update."""
        return self.path / f"{run}-{number}.update"

    def sealed(self, run: str, number: int) -> Path:
        """Return the path of the round's sealed update, kept until the store has it."""
        return self.path / f"{run}-{number}.sealed"

    def residual(self, run: str, number: int) -> Path:
        """Return the path of the codec's residual of the round, fp32; the run's next update adds it."""
        return self.path / f"{run}-{number}{_RESIDUAL}"

    def residuals(self) -> list[tuple[str, int]]:
        """Return the runs and rounds that have a residual."""
        parts = (path.stem.rpartition("-") for path in self.path.glob(f"*{_RESIDUAL}"))
        return [(run, int(number)) for run, _, number in parts if number.isdecimal()]

    def sweep(self, committed: Iterable[tuple[str, int]], residuals: Iterable[tuple[str, int]]) -> list[str]:
        """Remove the files that a crash left.

        Args:
            committed: rounds whose sealed updates stay.
            residuals: rounds whose residuals stay.

        Returns:
            The names of the removed files.
        """
        private_dir(self.path)
        kept = {self.sealed(run, number) for run, number in committed}
        kept |= {self.residual(run, number) for run, number in residuals}
        left = [path for path in self.path.iterdir() if path not in kept]
        for path in left:
            path.unlink()
        return sorted(path.name for path in left)


def write_own(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically and durably, mode 600."""
    write_whole(path, data)


def write_when_room(path: Path, data: bytes) -> None:
    """Write like `write_own`, but wait while the disk is full, so that a trained update is not lost."""
    while True:
        try:
            return write_own(path, data)
        except OSError as error:
            if not is_full(error):
                raise
        time.sleep(1.0)
