"""One machine plays every site: agents as processes on the real exchange, or all in this process."""

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership, accept_invitation, init_site, read_card
from fedllm.agent.worker import InlineTrainer, Workbench
from fedllm.config import FederationConfig, StoreConfig, cache_dir, fedllm_home
from fedllm.coordinator.journal import coordinator_folder
from fedllm.coordinator.members import add_site, store_access
from fedllm.coordinator.result import RunResult, result
from fedllm.coordinator.rounds import JournaledSteps, play
from fedllm.coordinator.training import open_training
from fedllm.data.prepare import PreparedData, inputs_sha256, prepare
from fedllm.errors import AccessDeniedError, ConfigError, ObjectNotFoundError

log = logging.getLogger(__name__)


def new_run_id() -> str:
    """A run's id: when it began, and enough chance to be alone."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


def cached_data(config: FederationConfig) -> PreparedData:
    """The simulated sites' data in the cache, made when they are not there."""
    return prepare(config, cache_dir() / "data" / inputs_sha256(config)[:16])


def join(config: FederationConfig, name: str, data: Path, home: Path, **settings: object) -> Membership:
    """Make a simulated site a member, or find that it is one; its own keys stay in its home."""
    assert config.simulation is not None  # noqa: S101 - the caller simulates
    chosen: dict[str, object] = {"base": config.model.base, "threads": config.simulation.threads, **settings}
    if config.privacy.on:
        asked = config.privacy
        chosen["policy"] = {"units": [asked.unit], "max_epsilon": asked.epsilon, "max_delta": asked.delta}
    (home / "site.yaml").unlink(missing_ok=True)  # a simulated site follows the configuration
    card = init_site(name, data, home, **chosen)
    invitation = home / f"{config.name}.invitation"
    if invitation.exists():
        try:
            member = accept_invitation(invitation, home)
            access = store_access(config)
            told = member.invitation
            if (told.store_url, told.endpoint, told.ca) == (access.url, access.endpoint, access.ca):
                member.connect().stat(member.layout.roster)
                return member
        except (AccessDeniedError, ObjectNotFoundError):
            log.info("%s is invited anew: the store is not the one it knew", name)
    invitation.write_bytes(add_site(config, read_card(card)))
    return accept_invitation(invitation, home)


@contextmanager
def agent_processes(
    config: FederationConfig, data: PreparedData
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Run every simulated site's agent as its own process and its own user of the store.

    The agents end with the block, or with this process should it be killed.
    """
    agents: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, records in data.sites.items():
            home = fedllm_home() / "simulated" / config.name / name
            join(config, name, records, home)
            command = [sys.executable, "-m", "fedllm", "agent", "--home", str(home)]
            command += ["--with-parent", str(os.getpid())]
            command += [
                "--invitation",
                str(home / f"{config.name}.invitation"),
                "--log",
                str(home / "agent.log"),
            ]
            # What a training process says when it fails quotes records: it belongs in the site's own log.
            with (home / "agent.log").open("ab") as own:
                agents[name] = subprocess.Popen(
                    command,
                    env=_site_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=own,
                )
        yield agents
    finally:
        for agent in agents.values():
            agent.terminate()
        for agent in agents.values():
            try:
                agent.wait(15)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()


def _site_environment() -> dict[str, str]:
    """The environment without the coordinator's way to its servers: no site has their passwords."""
    others = ("PREFECT_", "MLFLOW_", "FEDLLM_JOURNAL_", "FEDLLM_PREFECT_", "FEDLLM_MLFLOW_")
    return {key: value for key, value in os.environ.items() if not key.startswith(others)}


def simulate(config: FederationConfig) -> RunResult:
    """Play a federation inside this process: same steps and messages, no isolation, no servers.

    The store is a folder, the agents are threads, and nothing is published to MLflow. For experiments and
    yardsticks; what it computes is what the real exchange computes.
    """
    if config.simulation is None:
        raise ConfigError("the configuration has no `simulation`: say who would hold what")
    run = new_run_id()
    data = cached_data(config)
    with tempfile.TemporaryDirectory(prefix="fedllm-") as temporary:
        folder = Path(temporary)
        store = StoreConfig(url=f"file://{folder / 'store'}")
        alone = config.model_copy(update={"name": f"sim-{run}", "store": store})
        try:
            with ExitStack() as stack:
                bench, lock = Workbench(), threading.Lock()
                for name, records in data.sites.items():
                    quick = {"poll_near": 0.05, "poll_idle": 0.05}
                    member = join(alone, name, records, folder / name, **quick)
                    stack.enter_context(_agent_thread(member, bench, lock))
                with open_training(alone, run, data.public) as training:
                    play(training, JournaledSteps(training))
                    return result(training)
        finally:
            shutil.rmtree(coordinator_folder(alone.name))


@contextmanager
def _agent_thread(member: Membership, bench: Workbench, lock: threading.Lock) -> Iterator[None]:
    agent = Agent(member, InlineTrainer(bench, lock))
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,), name=member.site.name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        agent.close()
