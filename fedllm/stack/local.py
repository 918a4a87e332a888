"""Start and stop the local stack: MinIO, its door, Prefect, a worker and MLflow, under supervisord."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fedllm.config.home import refuse_half_restored
from fedllm.endpoints.addresses import Endpoints, read_endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.endpoints.store_users import store_secrets
from fedllm.errors import StackError
from fedllm.extras import require
from fedllm.secure.ca import renewal_due
from fedllm.secure.trust import refuse_unchecked
from fedllm.stack.automations import register_automations
from fedllm.stack.deploy import deploy_stamp, register_deployments
from fedllm.stack.health import PrefectApi, answers, choose_port, health_urls
from fedllm.stack.minio import format_volume, has_volume
from fedllm.stack.programs import POOL, WORKER, base_environment, programs, root_credentials
from fedllm.stack.provision import Provisioner
from fedllm.stack.security import refuse_security_change, with_security, write_client_env
from fedllm.stack.startup import Startup
from fedllm.stack.supervise import Control, start_daemon, sweep, write_conf

# The door has the port that MinIO had in older versions, since old invitations name that address.
_USUAL = {"door": 9000, "minio": 9010, "prefect": 4200, "mlflow": 5000}

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """Ignore a line of progress."""


def up(
    *,
    ports: dict[str, int] | None = None,
    config: Path | None = None,
    secure: bool | None = None,
    open_to_all: bool | None = None,
    progress: Progress = _silent,
) -> Endpoints:
    """Start the stack of `$FEDLLM_HOME`, or repair and return the running one.

    The first start after a restore pauses the work pool: a person must decide whether another coordinator
    leads the same sites by now, and whether the runs of deployments continue.

    Args:
        ports: ports by server (door, minio, prefect, mlflow); missing ones are chosen.
        config: a federation file to register deployments for; None registers none.
        secure: TLS by the private CA; None: as last time, at first without.
        open_to_all: no passwords for Prefect and MLflow; None: as last time, at first with passwords.
        progress: called with a line for each server that answers, and for each wait.

    Raises:
        StackError: a server failed (with its last error and log), the stack is up with other options, or the
            home cannot be written.
        ConfigError: TLS is requested, and the environment disables its checks or passwords are switched off.
        BackupError: the home is half restored.
        MissingExtraError: the servers are not installed.
    """
    require("stack", "the local stack")
    place = StackPaths.here()
    with place.usable():
        refuse_half_restored()
        place.create()
    with place.usable(), place.lock(progress):
        refuse_half_restored()  # the lock's last holder may have been a restore that was killed
        state = _launch(place, ports or {}, secure, open_to_all, progress)
        endpoints = read_endpoints(place, state)
        write_client_env(place, endpoints.environment())
        _await_servers(place, endpoints, progress)
        if config is not None:
            _deploy_once(place, state, config, endpoints, progress)
    return endpoints


def down() -> bool:
    """Stop every process of the stack, keep its data, and return whether any process ran.

    Raises:
        StackError: a process does not end, or the home cannot be written.
    """
    place = StackPaths.here()
    with place.usable():
        if not place.folder.exists():
            return False
    with place.usable(), place.lock():
        control = Control(place)
        ran = control.alive()
        if ran:
            control.shutdown()
        swept = sweep(place)
        place.discard_temporary()
        return bool(swept) or ran


def _launch(
    place: StackPaths,
    requested: dict[str, int],
    secure: bool | None,
    open_to_all: bool | None,
    progress: Progress,
) -> StackState:
    """Start supervisord with this stack's processes unless they run, and return the stack's state."""
    state = StackState.load(place)
    control = Control(place)
    if control.alive() and state.ports:
        if moved := [name for name, port in requested.items() if state.ports.get(name) != port]:
            raise StackError(f"the stack is up with another {moved[0]} port: `fedllm down` first")
        refuse_security_change(state, secure, open_to_all)
        if has_volume(place.minio) and not (state.secure and renewal_due(place.ca)):
            return state
        if has_volume(place.minio):
            progress("the servers' certificate is renewed: they restart")
        control.shutdown()
    if state.ports and not has_volume(place.minio) and not place.restored.exists():
        progress(
            f"the store's folder {place.minio} was removed with all objects: it is created again, empty. "
            "Invite each site again with `fedllm site add CARD`; simulated sites join again by themselves"
        )
        _put_remains_aside(place.minio, progress)
    sweep(place)
    place.empty_temporary()
    state = replace(
        with_security(state, secure, open_to_all),
        ports=_ports(requested, state, progress),
        external_prefect=_external_prefect(state),
    )
    if state.secure:
        refuse_unchecked()
    state.save(place)
    progress("starting MinIO, its door, Prefect and MLflow")
    format_volume(place.minio)
    env = base_environment(place, own_prefect=state.external_prefect is None)
    write_conf(place, programs(place, state))
    start_daemon(place, env)
    return state


def _ports(requested: dict[str, int], state: StackState, progress: Progress) -> dict[str, int]:
    ports: dict[str, int] = {}
    before = dict(state.ports)
    if before and "door" not in before:
        before["door"] = before.pop("minio")
    for name, usual in _USUAL.items():
        port = choose_port(name, requested.get(name), before.get(name), usual, set(ports.values()))
        if port not in {requested.get(name), before.get(name), usual}:
            progress(f"port {usual} is taken, perhaps by another account's stack: {name} listens at {port}")
        ports[name] = port
    return ports


def _external_prefect(state: StackState) -> str | None:
    """Return PREFECT_API_URL if it names a Prefect that this stack did not start; else None."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    own = {replace(state, secure=secure).own_prefect_url for secure in (False, True)}
    return url if url and url not in own else None


def _await_servers(place: StackPaths, endpoints: Endpoints, progress: Progress) -> None:
    """Wait for all servers in parallel and set each one up as soon as it answers."""
    control = Control(place)
    startup = Startup(control, progress)
    urls = health_urls(endpoints)
    states = control.states()  # without a Prefect that the user runs

    def ready(name: str, line: str) -> None:
        if name in states:
            startup.start(name)
        if startup.wait(name, lambda: answers(urls[name])):
            progress(line)

    def minio() -> None:
        ready("minio", f"MinIO    {endpoints.minio_url}")
        provisioner = Provisioner(endpoints.minio_url, root_credentials(place), endpoints.ca)
        provisioner.provide(store_secrets(place).users())

    def door() -> None:
        ready("door", f"door     {endpoints.door_url}, where sites come in")

    def mlflow() -> None:
        ready("mlflow", f"MLflow   {endpoints.mlflow_url}")

    def prefect() -> None:
        ready("prefect", f"Prefect  {endpoints.prefect_ui_url}")
        _start_worker(startup, states["worker"], endpoints, place, progress)

    with ThreadPoolExecutor(max_workers=4) as pool:
        for future in [pool.submit(task) for task in (minio, door, mlflow, prefect)]:
            future.result()


def _start_worker(
    startup: Startup, state: str, endpoints: Endpoints, place: StackPaths, progress: Progress
) -> None:
    """Start the worker and wait for its first heartbeat; leave a running one alone.

    Args:
        startup: starts the worker and watches it.
        state: supervisord's state of the worker before.
        endpoints: the stack's servers.
        place: the stack's folder.
        progress: called with a line when the worker is ready, and if a restore pauses its pool.
    """
    api = PrefectApi(endpoints.prefect_api_url)
    api.ensure_pool(POOL)
    if place.restored.exists():
        api.pause_pool(POOL)  # before any worker asks for runs
        place.restored.unlink()
        progress(
            f"the work pool {POOL} is paused, since this home was restored: no run of it starts until you "
            f"resume it, on its page in Prefect or by `prefect work-pool resume {POOL}`"
        )
    register_automations(api)
    before: str | None = None
    if state != "RUNNING":
        if endpoints.own_prefect:
            api.discard_runs(POOL)  # no other worker runs this pool's flows
        before = api.heartbeat(POOL, WORKER)
    startup.start("worker")
    if startup.wait("worker", lambda: api.heartbeat(POOL, WORKER) not in {None, before}):
        progress(f"worker   in the work pool {POOL}")


def _put_remains_aside(folder: Path, progress: Progress) -> None:
    """Rename a folder with files that a server wrote after its removal: no store can read them."""
    if folder.is_dir() and any(folder.iterdir()):
        aside = folder.with_name(f"{folder.name}-remains-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        progress(f"its remaining files are now in {aside}; no store can read them")


def _deploy_once(
    place: StackPaths, state: StackState, config: Path, endpoints: Endpoints, progress: Progress
) -> None:
    """Register the deployments unless their current definitions are registered."""
    stamp = deploy_stamp(config, endpoints.prefect_api_url)
    if state.deployed == stamp:
        return
    names = register_deployments(config, endpoints.prefect_api_url, endpoints.environment())
    replace(state, deployed=stamp).save(place)
    for name in names:
        progress(f"deployed {name}")
