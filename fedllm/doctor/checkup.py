"""What `fedllm doctor` looks at, all at once; each answer says what to do.

Nothing is changed but for one probe object in the store, which is removed again.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from fedllm.config import FederationConfig
from fedllm.config.home import refuse_half_restored
from fedllm.coordinator.members import StoreAccess, store_access
from fedllm.doctor import databases, deployed, exchange, federation, machine, servers
from fedllm.doctor.finding import Check, Finding, fail, ok, tried, warn
from fedllm.doctor.modes import modes
from fedllm.doctor.site import visit
from fedllm.endpoints.addresses import Endpoints, endpoints
from fedllm.endpoints.place import Place
from fedllm.errors import BackupError, FedllmError
from fedllm.journal.journal import journal_url
from fedllm.stack.databases import databases as named_databases
from fedllm.stack.health import PrefectApi
from fedllm.stack.minio import has_volume
from fedllm.tasks.metrics import counting_metric

_AT_ONCE = 12  # checks; most of them wait for a server
_DEFAULT_BASE = "smollm2-135m"
_PATIENCE = 10.0  # s; a server that takes longer to answer is a finding

Named = tuple[str, str, Check]  # the check's name, what to do when it cannot be made, and the check


def checkup(config: FederationConfig | None = None) -> Iterator[Finding]:
    """Look at this machine, its stack, and a federation that it coordinates.

    Args:
        config: the federation; None looks at machine and stack alone.
    """
    yield from _all(_machine(config))
    try:
        with Place.here().usable():
            refuse_half_restored()
        found = endpoints()
        died = found is None and Place.here().pidfile.exists()  # `fedllm down` removes it
    except BackupError as error:
        yield fail("home", str(error), "nothing of it can be used before")
        return
    except FedllmError as error:
        yield fail("stack", str(error), "see above")
        return
    if found is not None:
        yield from _all(_stack(found, config))
    elif died:
        yield fail("stack", "it was up, and its supervisord is gone", "`fedllm up` starts it again")
    elif config is None or "auto" in {config.store.url, config.tracking.uri}:
        yield warn("stack", "not up", "`fedllm up` starts it")
    else:
        yield ok("stack", "not up, and not needed: the federation file names its servers")
    if found is None and (url := os.environ.get("PREFECT_API_URL")):
        yield from _all(_prefect(PrefectApi(url, _PATIENCE), "start it, or mend PREFECT_API_URL", config))
    if config is not None:
        yield from _all(_federation(config, found))
    elif found is not None:
        yield from _all([("clock", "", partial(machine.clock, found.minio_url))])


def site_checkup(
    home: Path, invitation: Path | None = None, config: FederationConfig | None = None
) -> Iterator[Finding]:
    """Look at a site's folder.

    Args:
        home: the folder, from `site init`.
        invitation: tried against the store; default: the only one in the folder.
        config: the federation, whose task the records are held against; default: what `site init` was given.
    """
    yield from _all([("python", "", machine.python), ("packages", "", machine.packages)])
    visited, found = visit(home, invitation, config.task if config else None)
    yield from found
    if visited is not None:
        yield from _all(visited.checks())


def _all(checks: list[Named]) -> Iterator[Finding]:
    """What the checks find, in their order, each made while the others wait.

    The modules of checks import at their top whatever they use: threads that import a library at once may
    see a part of it that is not there yet.
    """
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for found in pool.map(lambda named: tried(*named), checks):
            yield from found


def _machine(config: FederationConfig | None) -> list[Named]:
    base = config.model.base if config else _DEFAULT_BASE
    return [
        ("python", "", machine.python),
        ("packages", "", machine.packages),
        ("juicefs", "", machine.minio_program),
        ("home", "set FEDLLM_HOME", machine.home),
        ("disk", "make room", machine.disks),
        ("model cache", "mend model.base", partial(machine.base_model, base)),
        ("keys", "mend the folder", partial(modes, config.name if config else None)),
    ]


def _stack(found: Endpoints, config: FederationConfig | None = None) -> list[Named]:
    place = Place(found.home)
    checks: list[Named] = [
        ("stack", servers.HEAL, partial(servers.health, found, _PATIENCE)),
        ("store folder", servers.HEAL, partial(servers.store_folder, place)),
        ("mlflow version", servers.HEAL, partial(servers.mlflow_version, found.mlflow_url)),
        *_prefect(PrefectApi(found.prefect_api_url, _PATIENCE), servers.HEAL, config),
    ]
    kept = ["mlflow database"]
    kept += ["prefect database"] if found.own_prefect else []
    kept += ["mlflow accounts"] if found.passwords is not None else []
    checks += [(name, "mend its address", partial(_kept, place, name)) for name in kept]
    if found.ca_file is not None:
        checks.append(("certificate", "`fedllm ca`", partial(servers.certificates, found.ca_file.parent)))
    return checks


def _prefect(api: PrefectApi, remedy: str, config: FederationConfig | None) -> list[Named]:
    name = config.name if config else None
    return [
        ("prefect version", remedy, partial(servers.prefect_version, api)),
        ("worker", remedy, partial(servers.worker, api)),
        ("deployments", remedy, partial(deployed.deployments, api, name)),
        ("automations", remedy, partial(deployed.automations, api, name)),
        ("flow runs", remedy, partial(deployed.runs, api)),
    ]


def _kept(place: Place, name: str) -> Iterator[Finding]:
    """A database in which the stack's own servers keep what they know."""
    named = named_databases(place, keep=False)
    urls = {
        "mlflow database": named.mlflow or f"sqlite:///{place.folder / 'mlflow.db'}",
        "prefect database": named.prefect or f"sqlite:///{place.prefect_home / 'prefect.db'}",
        "mlflow accounts": f"sqlite:///{place.folder / 'mlflow-auth.db'}",
    }
    yield from databases.database(name, urls[name])


def _federation(config: FederationConfig, found: Endpoints | None) -> list[Named]:
    url = config.store.endpoint or (found.minio_url if found and config.store.url == "auto" else None)
    reach = "`fedllm up`, or mend store in the federation file"
    members = partial(federation.roster, config.name)

    def access() -> StoreAccess:
        return store_access(config)

    def users() -> Iterator[Finding]:
        yield from exchange.site_users(access(), config.name, [keys.name for keys in members()])

    def metric() -> list[Finding]:
        counting_metric(config)
        return []  # only what is wrong with it is worth a line

    lost = found is not None and config.store.url == "auto" and not has_volume(Place(found.home).minio)
    of_store: list[Named] = [
        ("store", reach, lambda: exchange.store(access(), config.name)),
        ("site users", reach, users),
        ("sites", reach, lambda: federation.sites(config, access(), members())),
    ]
    checks: list[Named] = [
        *([] if lost else of_store),  # without its folder the store refuses all keys, right or wrong
        (
            "journal",
            "mend FEDLLM_JOURNAL_URL",
            lambda: databases.database("journal", journal_url(config.name)),
        ),
        ("lease", "see `journal`", partial(federation.leftovers, config.name)),
        ("metric", "mend the federation file", metric),
    ]
    if url is not None:
        checks.append(("clock", "mend store.endpoint", partial(machine.clock, url)))
    if config.tracking.uri.startswith("http"):
        ask = partial(servers.mlflow_version, config.tracking.uri)
        checks.append(("mlflow version", "start it, or mend tracking.uri", ask))
    return checks
