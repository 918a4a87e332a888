"""What a training needs and can be looked at in a moment: said before any server or agent is started."""

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
    """Look at what a training needs.

    Args:
        config: the federation.
        sites: those to ask; None: all that are known.
        external: the sites' agents run elsewhere although the configuration has a `simulation`.

    Raises:
        ConfigError: simulated sites would join real ones, the mode of confidentiality does not go together
            with other settings, the codec is not known, the roster is empty or smaller than
            `rounds.min_sites`, a site to ask is not in it, there is no public set, or the metric that is to
            count cannot be computed.
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
    """Ask the store of a federation for its clock, where it is another one than the local stack's.

    Raises:
        ConfigError: its keys are not in the environment.
        ExchangeError: it does not answer, or refuses.
    """
    if config.store.url != "auto":
        store_access(config).connect().now()


def _check_sites(config: FederationConfig, sites: tuple[str, ...] | None) -> None:
    name, least = config.name, config.rounds.min_sites
    if config.simulation is not None:
        known, where, more = set(config.simulation.names), "`simulation` has", "name more of them"
    else:
        known, where, more = (
            _members(name),
            f"the roster of {name} has",
            "add more with `fedllm site add CARD`",
        )
        if not known:
            raise ConfigError(_nobody(name))
    if unknown := sorted(set(sites or ()) - known):
        raise ConfigError(
            f"not in the roster of {name}: {', '.join(unknown)}; it has {', '.join(sorted(known))}, and "
            "`fedllm site add` adds more"
        )
    asked = set(sites) if sites else known
    if len(asked) < least:
        count = f"{len(asked)} site{'s' if len(asked) > 1 else ''}"
        found = f"{count} {'are' if len(asked) > 1 else 'is'} to be asked" if sites else f"{where} {count}"
        raise ConfigError(f"rounds.min_sites is {least} and {found}: {more}, or lower rounds.min_sites")


def _nobody(federation: str) -> str:
    return (
        f"the roster of {federation} is empty: add sites with `fedllm site add CARD --config FILE`"
        f"{other_federations(federation)}"
    )


def _members(federation: str) -> set[str]:
    with closing(Journal(federation)) as journal:
        return {site.name for site in roster_of(journal, coordinator_identity(federation)).sites}
