"""The stack on one machine: MinIO and its door, Prefect, a worker, MLflow; from pip, under supervisord."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from fedllm.config.home import refuse_half_restored
from fedllm.endpoints.addresses import Endpoints, read_endpoints
from fedllm.endpoints.place import Place
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
from fedllm.stack.security import chosen, refuse_another_choice, write_client_env
from fedllm.stack.startup import Startup
from fedllm.stack.supervise import Control, start_daemon, sweep, write_conf

# Sites come in where the store itself was before it had a door: their invitations name that address.
_USUAL = {"door": 9000, "minio": 9010, "prefect": 4200, "mlflow": 5000}

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """Say nothing."""


def up(
    *,
    ports: dict[str, int] | None = None,
    config: Path | None = None,
    secure: bool | None = None,
    open_to_all: bool | None = None,
    progress: Progress = _silent,
) -> Endpoints:
    """Start the stack of `$FEDLLM_HOME`, or heal and return the one that runs.

    The first time after a restore the work pool is paused: whether another coordinator leads the same sites
    meanwhile, and whether what a deployment had begun is to go on, is for a person to say.

    Args:
        ports: wanted ports by server (door, minio, prefect, mlflow); others are found.
        config: a federation file to register deployments for; None registers none.
        secure: TLS by the private CA; None: as last time, at first not.
        open_to_all: no passwords for Prefect and MLflow; None: as last time, at first they have some.
        progress: hears a line for each server that comes to answer, or that makes `up` wait.

    Raises:
        StackError: which server failed, with its last words and log; or the stack is up the other way, or the
            home cannot be written to.
        ConfigError: TLS is asked for, and the environment switches its checks off or no passwords are wanted.
        BackupError: the home is half restored.
        MissingExtraError: the servers are not installed.
    """
    require("stack", "the local stack")
    place = Place.here()
    with place.usable():
        refuse_half_restored()
        place.create()
    with place.usable(), place.lock(progress):
        refuse_half_restored()  # the one who had the lock may have been a restore that was killed
        state = _launch(place, ports or {}, secure, open_to_all, progress)
        found = read_endpoints(place, state)
        write_client_env(place, found.environment())
        _await_servers(place, found, progress)
        if config is not None:
            _deploy_once(place, state, config, found, progress)
    return found


def down() -> bool:
    """Stop every process of the stack; what they stored stays. Return whether anything ran.

    Raises:
        StackError: a process does not end, or the home cannot be written to.
    """
    place = Place.here()
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
    place: Place,
    asked: dict[str, int],
    secure: bool | None,
    open_to_all: bool | None,
    progress: Progress,
) -> StackState:
    """Have supervisord running with this stack's processes, and return its state."""
    state = StackState.load(place)
    control = Control(place)
    if control.alive() and state.ports:
        if moved := [name for name, port in asked.items() if state.ports.get(name) != port]:
            raise StackError(f"the stack is up with another {moved[0]} port: `fedllm down` first")
        refuse_another_choice(state, secure, open_to_all)
        if has_volume(place.minio) and not (state.secure and renewal_due(place.ca)):
            return state
        if has_volume(place.minio):
            progress("the servers' certificate is renewed: they start anew")
        control.shutdown()
    if state.ports and not has_volume(place.minio) and not place.restored.exists():
        progress(
            f"the store's folder {place.minio} was removed, and all objects with it: it is made anew, empty. "
            "Invite each site again with `fedllm site add CARD`; simulated sites join again by themselves"
        )
        _put_remains_aside(place.minio, progress)
    sweep(place)
    place.empty_temporary()
    state = replace(
        chosen(state, secure, open_to_all),
        ports=_ports(asked, state, progress),
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


def _ports(asked: dict[str, int], state: StackState, progress: Progress) -> dict[str, int]:
    found: dict[str, int] = {}
    before = dict(state.ports)
    if before and "door" not in before:
        before["door"] = before.pop("minio")
    for name, usual in _USUAL.items():
        port = choose_port(name, asked.get(name), before.get(name), usual, set(found.values()))
        if port not in {asked.get(name), before.get(name), usual}:
            progress(f"port {usual} is taken, perhaps by another account's stack: {name} listens at {port}")
        found[name] = port
    return found


def _external_prefect(state: StackState) -> str | None:
    """The user's own Prefect, unless PREFECT_API_URL names the server that this stack started before."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    own = {replace(state, secure=secure).own_prefect_url for secure in (False, True)}
    return url if url and url not in own else None


def _await_servers(place: Place, found: Endpoints, progress: Progress) -> None:
    """Wait for all servers at once; each one's own set-up follows as soon as it answers."""
    control = Control(place)
    startup = Startup(control, progress)
    urls = health_urls(found)
    held = control.states()  # a Prefect of the user's own is not among them

    def ready(name: str, line: str) -> None:
        if name in held:
            startup.start(name)
        if startup.wait(name, lambda: answers(urls[name])):
            progress(line)

    def minio() -> None:
        ready("minio", f"MinIO    {found.minio_url}")
        there = Provisioner(found.minio_url, root_credentials(place), found.ca)
        there.provide(store_secrets(place).users())

    def door() -> None:
        ready("door", f"door     {found.door_url}, where sites come in")

    def mlflow() -> None:
        ready("mlflow", f"MLflow   {found.mlflow_url}")

    def prefect() -> None:
        ready("prefect", f"Prefect  {found.prefect_ui_url}")
        _start_worker(startup, held["worker"], found, place, progress)

    with ThreadPoolExecutor(max_workers=4) as pool:
        for future in [pool.submit(task) for task in (minio, door, mlflow, prefect)]:
            future.result()


def _start_worker(startup: Startup, state: str, found: Endpoints, place: Place, progress: Progress) -> None:
    """Start the worker and wait for its first heartbeat; one that runs already is left alone.

    Args:
        startup: looks after it.
        state: its state before, as supervisord says it.
        found: the stack's servers.
        place: the stack's folder.
        progress: hears that the worker is there, or that a restore has its pool paused.
    """
    api = PrefectApi(found.prefect_api_url)
    api.ensure_pool(POOL)
    if place.restored.exists():
        api.pause_pool(POOL)  # before any worker asks it for runs
        place.restored.unlink()
        progress(
            f"the work pool {POOL} is paused, since this home was restored: no run of it starts until you "
            f"resume it, on its page in Prefect or by `prefect work-pool resume {POOL}`"
        )
    register_automations(api)
    before: str | None = None
    if state != "RUNNING":
        if found.own_prefect:
            api.bury(POOL)  # nobody else runs this pool's flows
        before = api.heartbeat(POOL, WORKER)
    startup.start("worker")
    if startup.wait("worker", lambda: api.heartbeat(POOL, WORKER) not in {None, before}):
        progress(f"worker   in the work pool {POOL}")


def _put_remains_aside(folder: Path, progress: Progress) -> None:
    """Move away what a server still wrote into its folder after that was removed: no store can read it."""
    if folder.is_dir() and any(folder.iterdir()):
        aside = folder.with_name(f"{folder.name}-remains-{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        progress(f"what was left in it is in {aside}, without a list of what it was")


def _deploy_once(place: Place, state: StackState, config: Path, found: Endpoints, progress: Progress) -> None:
    """Register the deployments unless these very ones are registered."""
    stamp = deploy_stamp(config, found.prefect_api_url)
    if state.deployed == stamp:
        return
    names = register_deployments(config, found.prefect_api_url, found.environment())
    replace(state, deployed=stamp).save(place)
    for name in names:
        progress(f"deployed {name}")
