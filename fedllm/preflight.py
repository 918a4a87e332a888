"""Check the requirements of a training that are quick to check, before a server or agent is started."""

from contextlib import closing

from fedllm.confidentiality.modes import check_mode
from fedllm.config import FederationConfig
from fedllm.coordinator.federations import other_federations
from fedllm.coordinator.members import coordinator_identity, roster_of, store_access
from fedllm.coordinator.origin import refuse_simulation
from fedllm.data.public_set import check_public_set
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.models.base import find_base
from fedllm.models.codec import codec_named
from fedllm.tasks.metrics import counting_metric


def preflight(
    config: FederationConfig, sites: tuple[str, ...] | None = None, *, external: bool = False
) -> None:
    """Check the requirements of a training.

    Args:
        config: the federation.
        sites: the sites to train with; None: all.
        external: the sites' agents run elsewhere although the configuration has a `simulation`.

    Raises:
        ConfigError: simulated sites would join real ones, the confidentiality mode contradicts other
            settings, the codec is unknown, the roster is empty or smaller than `rounds.min_sites`, a
            requested site is not in it, there is no public set, or the main metric cannot be computed.
        DataError: the public set cannot be read, is empty, or does not fit the task.
        ModelError: the base model cannot be found.
    """
    if not external:
        refuse_simulation(config)
    check_mode(config)
    codec_named(config.codec)
    counting_metric(config)
    check_public_set(config, external=external)
    find_base(config.model.base)
    _check_sites(config.model_copy(update={"simulation": None}) if external else config, sites)


def check_store(config: FederationConfig) -> None:
    """Check that a federation's store answers, unless it is the local stack's.

    Raises:
        ConfigError: its access keys are not in the environment.
        ExchangeError: it does not answer, or refuses.
    """
    if config.store.url != "auto":
        store_access(config).connect().now()


def _check_sites(config: FederationConfig, sites: tuple[str, ...] | None) -> None:
    name, least = config.name, config.rounds.min_sites
    if config.simulation is not None:
        members, where, more = set(config.simulation.names), "`simulation` has", "name more of them"
    else:
        members, where, more = (
            _members(name),
            f"the roster of {name} has",
            "add more with `fedllm site add CARD`",
        )
        if not members:
            raise ConfigError(_empty_roster(name))
    if unknown := sorted(set(sites or ()) - members):
        raise ConfigError(
            f"not in the roster of {name}: {', '.join(unknown)}; it has {', '.join(sorted(members))}, and "
            "`fedllm site add` adds more"
        )
    chosen = set(sites) if sites else members
    if len(chosen) < least:
        count = f"{len(chosen)} site{'s' if len(chosen) > 1 else ''}"
        lack = f"{count} {'are' if len(chosen) > 1 else 'is'} to be asked" if sites else f"{where} {count}"
        raise ConfigError(f"rounds.min_sites is {least} and {lack}: {more}, or lower rounds.min_sites")


def _empty_roster(federation: str) -> str:
    return (
        f"the roster of {federation} is empty: add sites with `fedllm site add CARD --config FILE`"
        f"{other_federations(federation)}"
    )


def _members(federation: str) -> set[str]:
    with closing(Journal(federation)) as journal:
        return {site.name for site in roster_of(journal, coordinator_identity(federation)).sites}
