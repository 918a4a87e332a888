"""What trainings that are over leave behind and nobody needs any more."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedllm.coordinator.progress import score
from fedllm.errors import FedllmError
from fedllm.exchange.store import ObjectInfo, ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated, Evaluated
from fedllm.journal.place import coordinator_folder
from fedllm.journal.release_queue import waiting_releases
from fedllm.journal.runs import all_runs
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Sealed

OVER = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class Garbage:
    """What may go: objects of the store, and files of the coordinator's disk."""

    objects: tuple[ObjectInfo, ...]
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(there.size for there in self.objects) + sum(path.stat().st_size for path in self.files)


def find_garbage(journal: Journal, store: ObjectStore, *, older_than: float) -> Garbage:
    """Look through the store and the disk; nothing is changed.

    Only kinds that are known are ever named. Kept are: signed records (roster, head, plans, closed rounds,
    reports), the newest and the best model of every run, so that it can go on, models that wait for MLflow,
    what runs under way need, and whatever belongs to a run that this journal does not know, unless a site
    put it there. What MLflow holds, ledgers among it, is out of reach.

    Args:
        journal: the federation's.
        store: the federation's.
        older_than: s; runs that ended since, and sites' strays younger than that, are left alone.
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
    known = {row.run for row in runs}
    kept = {run: _kept_models(journal, run, waiting) for run in over}
    objects = [
        there
        for there in store.list(f"{layout.federation}/sites/")
        if _is_sites_garbage(there, over, known, before)
    ]
    queries = store.list(f"{layout.federation}/inbox/")
    objects += [there for there in queries if there.key.split("/")[3] in over]
    for run in sorted(over):
        models = store.list(layout.model(run, ""))
        keys = {model.key for model in kept[run]}
        objects += [there for there in models if there.key not in keys]
    files = [path for run in sorted(over) for path in _files(journal, run, kept[run], waiting)]
    return Garbage(tuple(objects), tuple(files))


def remove_garbage(store: ObjectStore, found: Garbage) -> list[str]:
    """Remove it; returns the reasons for what could not be removed."""
    left = []
    for there in found.objects:
        try:
            store.delete(there.key)
        except FedllmError as error:
            left.append(str(error))
    for path in found.files:
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return left


def _has_open_round(journal: Journal, run: str) -> bool:
    """Whether a run stopped inside a round: a resume needs that round's plan, model and updates."""
    steps = set(journal.times(run))
    return any(
        step == "dispatch" and not {(number, "evaluate"), (number, "failed")} & steps
        for number, step in steps
    )


def _is_sites_garbage(there: ObjectInfo, over: set[str], known: set[str], before: float) -> bool:
    """Answers and updates of runs that are over, and strays that no run accounts for."""
    _, _, site_key = there.key.partition("/sites/")
    _, _, rest = site_key.partition("/")
    run, slash, _ = rest.partition("/")
    if rest == "card.json":
        return False
    if slash and run in known:
        return run in over
    return there.modified < before


def _kept_models(journal: Journal, run: str, waiting: set[tuple[str, int]]) -> list[Sealed]:
    """The models that a run may still need."""
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
    wanted = {max(models)} if models else set()
    if measured:
        wanted.add(max(sorted(measured), key=lambda number: measured[number]))
    wanted |= {number for number in models if (run, number) in waiting}
    return [models[number] for number in wanted if number in models]


def _files(journal: Journal, run: str, kept: list[Sealed], waiting: set[tuple[str, int]]) -> Iterator[Path]:
    wanted = {model.sha256 for model in kept}
    folder = coordinator_folder(journal.federation) / "runs" / run
    for path in sorted(folder.glob("*")):
        sent = path.suffix in {".sealed", ".update", ".part"} and not path.name.startswith("optimizer-")
        if sent or (path.suffix == ".model" and path.stem not in wanted):
            yield path
        elif path.is_dir() and path.name.startswith("round-"):
            number = path.name.removeprefix("round-")
            if number.isdigit() and (run, int(number)) not in waiting:
                yield from sorted(part for part in path.rglob("*") if part.is_file())
