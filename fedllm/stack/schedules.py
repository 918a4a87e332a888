"""Choose the schedules that are useful for a federation, and resume them."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedllm.config import FederationConfig
from fedllm.coordinator.origin import members_by_origin
from fedllm.journal.journal import Journal
from fedllm.stack.health import PrefectApi

_WHEN = {"nightly": "every night at 02:00 UTC", "weekly": "every Sunday at 04:00 UTC"}
_WHEN |= {"minutely": "every minute", "every-five-minutes": "every five minutes"}


@dataclass(frozen=True)
class Scheduled:
    """A deployment's schedule, and whether it is active."""

    deployment: str  # flow/name
    when: str
    active: bool
    why_not: str | None  # why the federation has no use for it; None: it has


def resume_fitting(api: PrefectApi, config: FederationConfig, names: Iterable[str]) -> list[Scheduled]:
    """Resume the schedules that are useful for the federation, leave the others, and return all.

    Args:
        api: the Prefect with the deployments.
        config: the federation.
        names: its deployments, as `flow/name`.

    Raises:
        StackError: Prefect refused, or does not answer.
    """
    deployments, real = api.deployments(), _real_members(config)
    result = []
    for name in names:
        entry = deployments[name]
        why = why_not(name.partition("/")[0], config, real) if entry["schedules"] else None
        if why is None and entry.get("paused"):
            api.call(f"/deployments/{entry['id']}/resume_deployment", {})
        for schedule in entry["schedules"]:
            if why is None and not schedule["active"]:
                api.set_schedule(entry["id"], schedule["id"], active=True)
            slug = schedule.get("slug") or "as its page says"
            active = why is None or (schedule["active"] and not entry.get("paused"))
            result.append(Scheduled(name, _WHEN.get(slug, slug), active, why))
    return result


def why_not(flow: str, config: FederationConfig, real: int) -> str | None:
    """Return why a federation has no use for a flow's schedule; None if it has.

    Args:
        flow: the flow's name.
        config: the federation.
        real: number of real sites that have joined.
    """
    simulated = config.simulation is not None
    if flow == "federated-training":
        return _no_training(config, real)
    if flow == "privacy-audit" and not config.privacy.on and not simulated:
        return "no privacy is configured, so the sites keep no ledgers"
    if flow == "site-watch" and simulated:
        return "simulated sites are there only while they train"
    if flow == "site-watch" and real == 0:
        return "no site has joined: add them with `fedllm site add`, then deploy again"
    return None


def _no_training(config: FederationConfig, real: int) -> str | None:
    simulation, least = config.simulation, config.rounds.min_sites
    if simulation is not None:
        count, what = len(simulation.names), "simulated"
    else:
        count, what = real, "in the roster"
    if count < least:
        return f"{count} sites are {what} and rounds.min_sites is {least}: a training would fail"
    if simulation is None and not Path(config.evaluation.public).is_file():
        return f"evaluation.public: there is no file {config.evaluation.public}"
    return None


def _real_members(config: FederationConfig) -> int:
    if config.simulation is not None:
        return 0  # real members do not matter here, and deploying a simulation beside them is refused
    with closing(Journal(config.name)) as journal:
        return len(members_by_origin(journal)["real"])
