"""The residual of a run: what its codec lost of the site's last committed update.

A round's residual is written before its update is committed, and is in force from that commit on. After a
crash before the commit the former residual is in force, after one later the new one: both files exist until
the commit, and memory shows which one is in force.
"""

from pathlib import Path

from fedllm.agent.folder import WorkFolder
from fedllm.agent.memory import Memory


def sweep(folder: WorkFolder, memory: Memory) -> list[str]:
    """Remove what a crash left in the work folder; return the names."""
    committed = [(work.run, work.round) for work in memory.committed()]
    return folder.sweep(committed, _committed_residuals(folder, memory))


def _committed_residuals(folder: WorkFolder, memory: Memory) -> list[tuple[str, int]]:
    """Runs and rounds whose residual belongs to a committed update."""
    return [place for place in folder.residuals() if (work := memory.work(*place)) and work.payload]


def residual_of(folder: WorkFolder, memory: Memory, run: str) -> Path | None:
    """Return the residual that a run's next update takes along; None if there is none."""
    rounds = [number for name, number in _committed_residuals(folder, memory) if name == run]
    return folder.residual(run, max(rounds)) if rounds else None


def keep_residual(folder: WorkFolder, memory: Memory, run: str | None) -> None:
    """Delete every residual but the one in force for a run; with None all of them.

    Args:
        folder: the site's work folder.
        memory: the site's.
        run: under way, but with no training running: its new residual is not committed and would be deleted.
    """
    kept = residual_of(folder, memory, run) if run is not None else None
    for place in folder.residuals():
        if (path := folder.residual(*place)) != kept:
            path.unlink(missing_ok=True)
