"""Run the checks of `fedllm doctor` in parallel; each finding says what to do.

The only change is a probe object in the store, which is removed again.
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
from fedllm.doctor.site import site_check
from fedllm.endpoints.addresses import Endpoints, endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import BackupError, FedllmError
from fedllm.journal.location import journal_url
from fedllm.stack.databases import databases as configured_databases
from fedllm.stack.health import PrefectApi
from fedllm.stack.minio import has_volume
from fedllm.tasks.metrics import counting_metric

_AT_ONCE = 12  # checks in parallel; most of them wait for a server
_DEFAULT_BASE = "smollm2-135m"
_PATIENCE = 10.0  # s; a server that takes longer to answer is a finding

Named = tuple[str, str, Check]  # name, advice if the check itself fails, and the check


def checkup(config: FederationConfig | None = None) -> Iterator[Finding]:
    """Check this machine, its stack, and a federation that it coordinates.

    Args:
        config: the federation; None checks only machine and stack.
    """
    yield from _all(_machine(config))
    try:
        with StackPaths.here().usable():
            refuse_half_restored()
        stack = endpoints()
        died = stack is None and StackPaths.here().pidfile.exists()  # `fedllm down` removes it
    except BackupError as error:
        yield fail("home", str(error), "this home cannot be used before that")
        return
    except FedllmError as error:
        yield fail("stack", str(error), "see above")
        return
    if stack is not None:
        yield from _all(_stack(stack, config))
    elif died:
        yield fail("stack", "it was up, and its supervisord is gone", "`fedllm up` starts it again")
    elif config is None or "auto" in {config.store.url, config.tracking.uri}:
        yield warn("stack", "not up", "`fedllm up` starts it")
    else:
        yield ok("stack", "not up, and not needed: the federation file names its servers")
    if stack is None and (url := os.environ.get("PREFECT_API_URL")):
        yield from _all(_prefect(PrefectApi(url, _PATIENCE), "start it, or correct PREFECT_API_URL", config))
    if config is not None:
        yield from _all(_federation(config, stack))
    elif stack is not None:
        yield from _all([("clock", "", partial(machine.clock, stack.minio_url))])


def site_checkup(
    home: Path, invitation: Path | None = None, config: FederationConfig | None = None
) -> Iterator[Finding]:
    """Check a site's folder.

    Args:
        home: the folder, from `site init`.
        invitation: tried against the store; default: the only one in the folder.
        config: the federation, whose task the records must fit; default: the task given to `site init`.
    """
    yield from _all([("python", "", machine.python), ("packages", "", machine.packages)])
    check, findings = site_check(home, invitation, config.task if config else None)
    yield from findings
    if check is not None:
        yield from _all(check.checks())


def _all(checks: list[Named]) -> Iterator[Finding]:
    """Run checks in parallel and yield their findings in order.

    The modules of checks import all libraries at their top: threads that import a library at the same time
    may see it half loaded.
    """
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for findings in pool.map(lambda named: tried(*named), checks):
            yield from findings


def _machine(config: FederationConfig | None) -> list[Named]:
    base = config.model.base if config else _DEFAULT_BASE
    return [
        ("python", "", machine.python),
        ("packages", "", machine.packages),
        ("juicefs", "", machine.minio_program),
        ("home", "set FEDLLM_HOME", machine.home),
        ("disk", "make room", machine.disks),
        ("model cache", "correct model.base", partial(machine.base_model, base)),
        ("keys", "repair the folder", partial(modes, config.name if config else None)),
    ]


def _stack(stack: Endpoints, config: FederationConfig | None = None) -> list[Named]:
    place = StackPaths(stack.home)
    checks: list[Named] = [
        ("stack", servers.HEAL, partial(servers.health, stack, _PATIENCE)),
        ("store folder", servers.HEAL, partial(servers.store_folder, place)),
        ("mlflow version", servers.HEAL, partial(servers.mlflow_version, stack.mlflow_url)),
        *_prefect(PrefectApi(stack.prefect_api_url, _PATIENCE), servers.HEAL, config),
    ]
    names = ["mlflow database"]
    names += ["prefect database"] if stack.own_prefect else []
    names += ["mlflow accounts"] if stack.passwords is not None else []
    checks += [(name, "correct its address", partial(_server_database, place, name)) for name in names]
    if stack.ca_file is not None:
        checks.append(("certificate", "`fedllm ca`", partial(servers.certificates, stack.ca_file.parent)))
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


def _server_database(place: StackPaths, name: str) -> Iterator[Finding]:
    """Check a database of the stack's servers."""
    configured = configured_databases(place, keep=False)
    urls = {
        "mlflow database": configured.mlflow or f"sqlite:///{place.folder / 'mlflow.db'}",
        "prefect database": configured.prefect or f"sqlite:///{place.prefect_home / 'prefect.db'}",
        "mlflow accounts": f"sqlite:///{place.folder / 'mlflow-auth.db'}",
    }
    yield from databases.database(name, urls[name])


def _federation(config: FederationConfig, stack: Endpoints | None) -> list[Named]:
    url = config.store.endpoint or (stack.minio_url if stack and config.store.url == "auto" else None)
    advice = "`fedllm up`, or correct store in the federation file"
    members = partial(federation.roster, config.name)

    def access() -> StoreAccess:
        return store_access(config)

    def users() -> Iterator[Finding]:
        yield from exchange.site_users(access(), config.name, [keys.name for keys in members()])

    def metric() -> list[Finding]:
        counting_metric(config)
        return []  # a valid metric needs no finding

    lost = stack is not None and config.store.url == "auto" and not has_volume(StackPaths(stack.home).minio)
    of_store: list[Named] = [
        ("store", advice, lambda: exchange.store(access(), config.name)),
        ("site users", advice, users),
        ("sites", advice, lambda: federation.sites(config, access(), members())),
    ]
    checks: list[Named] = [
        *([] if lost else of_store),  # a store without its folder refuses all keys, valid or not
        (
            "journal",
            "correct FEDLLM_JOURNAL_URL",
            lambda: databases.database("journal", journal_url(config.name)),
        ),
        ("lease", "see `journal`", partial(federation.leftovers, config.name)),
        ("metric", "correct the federation file", metric),
    ]
    if url is not None:
        checks.append(("clock", "correct store.endpoint", partial(machine.clock, url)))
    if config.tracking.uri.startswith("http"):
        check = partial(servers.mlflow_version, config.tracking.uri)
        checks.append(("mlflow version", "start it, or correct tracking.uri", check))
    return checks
