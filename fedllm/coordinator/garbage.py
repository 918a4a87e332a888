"""Find and remove objects and files of ended trainings that are no longer needed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedllm.coordinator.progress import score
from fedllm.errors import FedllmError
from fedllm.exchange.store import ObjectInfo, ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.journal.outcomes import Aggregated, Evaluated
from fedllm.journal.release_queue import waiting_releases
from fedllm.journal.runs import all_runs
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Sealed

OVER = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class Garbage:
    """What may be removed: objects in the store, and files on the coordinator's disk."""

    objects: tuple[ObjectInfo, ...]
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(entry.size for entry in self.objects) + sum(path.stat().st_size for path in self.files)


def find_garbage(journal: Journal, store: ObjectStore, *, older_than: float) -> Garbage:
    """Search the store and the disk for garbage, without changing anything.

    Only known kinds of objects are listed. It keeps: signed records (roster, head, plans, closed rounds,
    reports); the newest and the best model of every run, so that the run can continue; models that wait for
    MLflow; what runs under way need; and objects of runs that this journal does not know, unless a site
    wrote them. It never touches what MLflow holds, ledgers included.

    Args:
        journal: the federation's.
        store: the federation's.
        older_than: s; younger strays of sites, and runs that ended more recently, are kept.
    """
    layout, before = Layout(journal.federation), time.time() - older_than
    runs = all_runs(journal)
    waiting = {(run, number) for run, number, _ in waiting_releases(journal)}
    over = {
        row.run
        for row in runs
        if row.status in OVER
        and (row.finished or row.started) < before
        and not _has_open_round(journal, row.run)
    }
    known_runs = {row.run for row in runs}
    kept = {run: _kept_models(journal, run, waiting) for run in over}
    objects = [
        entry
        for entry in store.list(f"{layout.federation}/sites/")
        if _is_sites_garbage(entry, over, known_runs, before)
    ]
    queries = store.list(f"{layout.federation}/inbox/")
    objects += [entry for entry in queries if entry.key.split("/")[3] in over]
    for run in sorted(over):
        models = store.list(layout.model(run, ""))
        keys = {model.key for model in kept[run]}
        objects += [entry for entry in models if entry.key not in keys]
    files = [path for run in sorted(over) for path in _files(journal, run, kept[run], waiting)]
    return Garbage(tuple(objects), tuple(files))


def remove_garbage(store: ObjectStore, found: Garbage) -> list[str]:
    """Remove objects and files; return one reason per object that could not be removed."""
    failures = []
    for entry in found.objects:
        try:
            store.delete(entry.key)
        except FedllmError as error:
            failures.append(str(error))
    for path in found.files:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return failures


def _has_open_round(journal: Journal, run: str) -> bool:
    """Return whether a run stopped inside a round: a resume needs that round's plan, model and updates."""
    steps = set(journal.times(run))
    return any(
        step == "dispatch" and not {(number, "evaluate"), (number, "failed")} & steps
        for number, step in steps
    )


def _is_sites_garbage(entry: ObjectInfo, over: set[str], known_runs: set[str], before: float) -> bool:
    """Return whether a site's object belongs to an ended run, or is an old object of no known run."""
    _, _, site_key = entry.key.partition("/sites/")
    _, _, rest = site_key.partition("/")
    run, slash, _ = rest.partition("/")
    if rest == "card.json":
        return False
    if slash and run in known_runs:
        return run in over
    return entry.modified < before


def _kept_models(journal: Journal, run: str, waiting: set[tuple[str, int]]) -> list[Sealed]:
    """Return the models that a run may still need."""
    steps = journal.times(run)
    models = {
        number: journal.require(run, number, step, Aggregated).model
        for number, step in steps
        if step == "aggregate"
    }
    measured = {
        number: score(journal.require(run, number, step, Evaluated))
        for number, step in steps
        if step == "evaluate"
    }
    needed = {max(models)} if models else set()
    if measured:
        needed.add(max(sorted(measured), key=lambda number: measured[number]))
    needed |= {number for number in models if (run, number) in waiting}
    return [models[number] for number in needed if number in models]


def _files(journal: Journal, run: str, kept: list[Sealed], waiting: set[tuple[str, int]]) -> Iterator[Path]:
    needed = {model.sha256 for model in kept}
    folder = coordinator_folder(journal.federation) / "runs" / run
    for path in sorted(folder.glob("*")):
        is_upload = path.suffix in {".sealed", ".update", ".part"} and not path.name.startswith("optimizer-")
        if is_upload or (path.suffix == ".model" and path.stem not in needed):
            yield path
        elif path.is_dir() and path.name.startswith("round-"):
            number = path.name.removeprefix("round-")
            if number.isdigit() and (run, int(number)) not in waiting:
                yield from sorted(part for part in path.rglob("*") if part.is_file())
