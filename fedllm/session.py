"""Open a training session: its configuration, data, simulated agents and servers."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedllm.config import FederationConfig
from fedllm.config.frozen import NAME
from fedllm.coordinator.progress import played
from fedllm.coordinator.training import Training, open_training, stored_config
from fedllm.data.lock import ManagedData, check_lock, managed_data
from fedllm.data.prepare import PreparedData, cached_data, layout, prepare
from fedllm.errors import CancelledError, ConfigError, DataError
from fedllm.journal.journal import Journal
from fedllm.journal.runs import find_run, new_run_id, played_by
from fedllm.milestones import Prepared, Preparing, report
from fedllm.preflight import preflight
from fedllm.simulation import agent_processes
from fedllm.versions import tracking_uri


@dataclass(frozen=True)
class Request:
    """The options of a training besides its configuration."""

    run_id: str | None = None  # the run to resume, or the id of a new run
    fresh_id: str | None = None  # id of a new run, if none is resumed
    rounds: int | None = None
    sites: tuple[str, ...] | None = None
    more: int | None = None  # rounds to add to those played, instead of a limit
    allow_dirty: bool = False
    projects: tuple[Path, ...] = ()  # folders that may hold the data's dvc.lock
    prefect_flow_run: str | None = None


@contextmanager
def session(config: FederationConfig, request: Request) -> Iterator[Training]:
    """Open a new or resumed training, and close it and its agents at the end of the block.

    A resumed run keeps the configuration that it began with; only the number of rounds may rise.

    Raises:
        ConfigError: the configuration has a `simulation` and the federation has real members.
    """
    run, config = _settle(config, request)
    preflight(config, request.sites)
    managed = next((m for p in request.projects if (m := managed_data(config, p)) is not None), None)
    data = _data(config, managed, allow_dirty=request.allow_dirty)
    public = data.public if data else Path(config.evaluation.public)
    with ExitStack() as stack:
        if data is not None:
            sites = {n: p for n, p in data.sites.items() if request.sites is None or n in request.sites}
            stack.enter_context(agent_processes(config, PreparedData(sites, data.public)))
        yield stack.enter_context(
            open_training(
                config,
                run,
                public,
                sites=request.sites or (tuple(data.sites) if data else None),
                tracking_uri=tracking_uri(config),
                prefect_flow_run=request.prefect_flow_run,
                dvc_lock_sha256=managed.sha256 if managed else None,
            )
        )


def _settle(config: FederationConfig, request: Request) -> tuple[str, FederationConfig]:
    """Return the run's id and its configuration."""
    for name, count in (("rounds", request.rounds), ("rounds", request.more)):
        if count is not None and count < 1:
            raise ConfigError(f"{name} is {count}: play at least one")
    run, rounds = request.run_id, request.rounds
    if run is not None and not re.fullmatch(NAME, run):
        raise ConfigError(f"run_id {run!r}: use small letters, digits and hyphens, 63 at most")
    with closing(Journal(config.name)) as journal:
        if run is None and request.prefect_flow_run is not None:
            run = played_by(journal, request.prefect_flow_run)  # Prefect retries a flow run
            earlier = find_run(journal, run) if run else None
            if earlier is not None and earlier.status == "cancelled":
                raise CancelledError(f"{run} was cancelled; go on with --resume {run}")
        run = run or request.fresh_id or new_run_id()
        if request.more is not None:
            rounds = played(journal, run) + request.more
    config = stored_config(config.name, run) or config
    if rounds is not None:
        config = config.model_copy(update={"rounds": config.rounds.model_copy(update={"max": rounds})})
    return run, config


def _data(config: FederationConfig, managed: ManagedData | None, *, allow_dirty: bool) -> PreparedData | None:
    """Return the data of simulated sites; None without a simulation."""
    if config.simulation is None:
        return None
    if managed is None:
        report(Preparing("data", config.simulation.source))
        data = cached_data(config)
        report(Prepared("data", config.simulation.source))
        return data
    prepared = _prepare_missing(config, managed.folder)
    return prepared if allow_dirty else check_lock(managed, config)


def _prepare_missing(config: FederationConfig, folder: Path) -> PreparedData:
    """Return managed data; create them if all files are missing.

    Raises:
        DataError: only some files are missing; none is overwritten.
    """
    expected = layout(config, folder)
    absent = [path for path in (*expected.sites.values(), expected.public) if not path.exists()]
    if not absent:
        return expected
    if len(absent) <= len(expected.sites):
        raise DataError(f"{absent[0]} is missing and others are there: `dvc repro` makes all of them anew")
    return prepare(config, folder)
