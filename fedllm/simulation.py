"""Simulate all sites on one machine: agents as processes with the real exchange, or all in this process."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from fedllm.agent.agent import Agent
from fedllm.agent.host import Seat
from fedllm.agent.job import Workbench
from fedllm.agent.join import Membership, accept_invitation, init_site, read_card
from fedllm.agent.trainers import InlineTrainer
from fedllm.config import FederationConfig, StoreConfig, fedllm_home
from fedllm.config.home import private_dir
from fedllm.coordinator.members import add_site, store_access
from fedllm.coordinator.origin import members_by_origin
from fedllm.coordinator.result import RunResult, result
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.coordinator.training import open_training
from fedllm.data.prepare import PreparedData, cached_data
from fedllm.errors import AccessDeniedError, ConfigError, FedllmError, ObjectNotFoundError
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.journal.runs import new_run_id
from fedllm.milestones import Prepared, Preparing, report
from fedllm.models.base import resolve_base
from fedllm.models.codec import codec_named
from fedllm.protocol.messages import PublicKeys
from fedllm.tasks.metrics import counting_metric

log = logging.getLogger(__name__)


def join(config: FederationConfig, name: str, data: Path, home: Path, **settings: object) -> Membership:
    """Make a simulated site a member unless it is one; its keys stay in its home."""
    assert config.simulation is not None  # noqa: S101 - the caller checked
    chosen: dict[str, object] = {
        "base": config.model.base,
        "threads": config.simulation.threads,
        "tell_count": config.aggregation.weighting == "examples",
        **settings,
    }
    if config.privacy.on:
        terms = config.privacy
        chosen["policy"] = {"units": [terms.unit], "max_epsilon": terms.epsilon, "max_delta": terms.delta}
    (home / "site.yaml").unlink(missing_ok=True)  # a simulated site follows the configuration
    card = init_site(name, data, home, **chosen)
    invitation = home / f"{config.name}.invitation"
    if invitation.exists() and _is_member(config.name, read_card(card)):
        try:
            member = accept_invitation(invitation, home)
            access = store_access(config)
            invited = member.invitation
            same = (access.url, access.sites_endpoint, access.sites_ca)
            if (invited.store_url, invited.endpoint, invited.ca) == same:
                member.connect().stat(member.layout.roster)
                return member
        except (AccessDeniedError, ObjectNotFoundError):
            log.info("%s is invited anew: the store is not the one it knew", name)
    invitation.write_bytes(add_site(config, read_card(card), origin="simulated"))
    return accept_invitation(invitation, home)


def _is_member(federation: str, keys: PublicKeys) -> bool:
    """Return whether a simulated site is in the roster; a revoked one is not, and joins again."""
    with closing(Journal(federation)) as journal:
        return keys in members_by_origin(journal)["simulated"]


@contextmanager
def agent_processes(config: FederationConfig, data: PreparedData) -> Iterator[dict[str, psutil.Process]]:
    """Run the agent of each simulated site as a process with its own user of the store.

    The agents end with the block, or with this process if it is killed.

    Raises:
        ConfigError: the federation has real members, which simulated sites may not join.
    """
    folder = fedllm_home() / "simulated" / config.name
    private_dir(folder)
    report(Preparing("base model", config.model.base))
    base = resolve_base(config.model.base)
    report(Prepared("base model", config.model.base))
    with (folder / "host.log").open("ab") as host_log:
        host = subprocess.Popen(
            [sys.executable, "-m", "fedllm.agent.host", str(base)],
            env=_site_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=host_log,
        )
    with host:
        try:
            report(Preparing("sites", f"{', '.join(data.sites)} join"))
            seats = [_seat(config, name, records) for name, records in data.sites.items()]
            agents = _start_agents(host, seats)
            report(Prepared("sites", ", ".join(agents)))
            yield agents
        finally:
            host.communicate()  # closes its stdin: it stops the agents and exits


def _seat(config: FederationConfig, name: str, records: Path) -> Seat:
    """Make a site a member and return the paths that its agent needs."""
    home = fedllm_home() / "simulated" / config.name / name
    join(config, name, records, home)
    return Seat(name, str(home), str(home / f"{config.name}.invitation"), str(home / "agent.log"))


def _start_agents(host: "subprocess.Popen[bytes]", seats: list[Seat]) -> dict[str, psutil.Process]:
    """Start the agents through the host; return the processes of those that run, by site."""
    assert host.stdin is not None  # noqa: S101 - opened as pipes
    assert host.stdout is not None  # noqa: S101
    with suppress(BrokenPipeError):
        host.stdin.write(json.dumps([asdict(seat) for seat in seats]).encode() + b"\n")
        host.stdin.flush()
    line = host.stdout.readline()
    if not line:
        raise FedllmError("the sites' agents do not start: see host.log beside the sites' folders")
    agents = {}
    for name, pid in json.loads(line).items():
        with suppress(psutil.NoSuchProcess):  # it ended at once; its log says why
            agents[name] = psutil.Process(pid)
    return agents


def _site_environment() -> dict[str, str]:
    """Return the environment without the coordinator's addresses and passwords of its servers."""
    coordinator = ("PREFECT_", "MLFLOW_", "FEDLLM_JOURNAL_", "FEDLLM_PREFECT_", "FEDLLM_MLFLOW_")
    return {key: value for key, value in os.environ.items() if not key.startswith(coordinator)}


def simulate(config: FederationConfig) -> RunResult:
    """Train a federation inside this process: same steps and messages, without isolation or servers.

    The store is a folder, the agents are threads, and nothing is published to MLflow. It serves experiments
    and baselines, and computes the same results as the real exchange.

    Raises:
        ConfigError: there is no `simulation`, or the codec is unknown.
    """
    if config.simulation is None:
        raise ConfigError("the configuration has no `simulation`: say who would hold what")
    codec_named(config.codec)
    counting_metric(config)
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
                    polling = {"poll_near": 0.05, "poll_idle": 0.05}
                    member = join(alone, name, records, folder / name, **polling)
                    stack.enter_context(_agent_thread(member, bench, lock))
                with open_training(alone, run, data.public) as training:
                    play(training, JournaledRunner(training))
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
