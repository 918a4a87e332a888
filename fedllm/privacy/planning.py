"""Plan a training's privacy before it starts: noise, epsilon by round, and signal to noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.errors import ConfigError
from fedllm.privacy.accounting import ACCOUNTANT, Event, epsilon
from fedllm.privacy.configured import min_honest, resolve, steps_per_round
from fedllm.protocol.terms import ADJACENCY, NO_DP, TRUST

MOST_POINTS = 24  # rounds with an epsilon in `by_round`; longer trainings list evenly spaced ones

# Rules of thumb for the upper bound below, which assumes that every clipped gradient points the same way.
# Below 1, noise moves the model farther than the data could at best. Gradients of different records agree
# far less than that: below 0.1, the signal is lost.
NOISY, DESTROYED = 1.0, 0.1


@dataclass(frozen=True)
class SitePlan:
    """One site's whole training."""

    site: str
    sampling_rate: float  # q
    noise_multiplier: float  # sigma, as configured or solved for
    steps: int  # of the accountant: DP-SGD steps, or rounds where whole sites are the unit
    epsilon: float  # after the last step
    by_round: tuple[tuple[int, float], ...]  # (round, epsilon after it)


@dataclass(frozen=True)
class Snr:
    """Upper bounds of the signal-to-noise ratio: see `signal_to_noise`."""

    size: int  # shared numbers, d
    per_step: float  # of one step (for `site`: one round), at the worst site
    training: float  # of all steps at all sites
    verdict: str


@dataclass(frozen=True)
class PrivacyPlanning:
    """A training's planned privacy. Without DP it holds no sites, and epsilon is None, never 0."""

    unit: str
    rounds: int
    adjacency: str = ADJACENCY
    accountant: str = ACCOUNTANT
    trust: str = NO_DP
    budget: float | None = None  # privacy.epsilon
    delta: float | None = None
    common: Event | None = None  # the whole training of a site that privacy.sites does not name
    sites: tuple[SitePlan, ...] = ()
    snr: Snr | None = None  # None: the number of shared numbers is unknown

    @property
    def epsilon(self) -> float | None:
        """Return the largest epsilon of any site; None without DP."""
        return max((site.epsilon for site in self.sites), default=None)

    @property
    def by_round(self) -> tuple[tuple[int, float], ...]:
        """Return pairs of round and the largest epsilon of any site after it."""
        columns = zip(*(site.by_round for site in self.sites), strict=True)
        return tuple((column[0][0], max(spent for _, spent in column)) for column in columns)


def plan(config: FederationConfig, sites: Sequence[str], size: int | None = None) -> PrivacyPlanning:
    """Plan a training's privacy.

    Args:
        config: of the federation.
        sites: that take part.
        size: number of shared numbers, for the signal-to-noise ratio.

    Raises:
        ConfigError: The budget cannot be kept, or privacy.sites names an unknown site.
    """
    privacy = config.privacy
    if not privacy.on:
        return PrivacyPlanning(privacy.unit, config.rounds.max)
    if unknown := sorted(set(privacy.sites) - set(sites)):
        raise ConfigError(f"privacy.sites names {unknown[0]}, which is not among {', '.join(sites)}")
    planned = tuple(_site(config, site) for site in sites)
    return PrivacyPlanning(
        unit=privacy.unit,
        rounds=config.rounds.max,
        trust=TRUST[privacy.unit],
        budget=privacy.epsilon,
        delta=privacy.delta,
        common=resolve(config),
        sites=planned,
        snr=signal_to_noise(config, planned, size) if size and planned else None,
    )


def signal_to_noise(config: FederationConfig, sites: Sequence[SitePlan], size: int) -> Snr:
    """Return an upper bound of how far the data moves the model over how far the noise does (L2 lengths).

    `record`, `person`: a step at a site adds at most B·C, with B = local.batch_size for the expected number
    of units per step and all gradients clipped to C = privacy.clip and parallel. Its noise has the expected
    length sigma·C·√d. A step's ratio is B / (sigma·√d). Over all T steps at all n sites the signal grows to
    n·T·B, the noise to √(T·Σ sigma²); with one sigma that is √(n·T) times a step's ratio.

    `site`: a round adds at most n·C, for n sites. Each draws noise of sigma·C/√m, m = privacy.min_honest, so
    all together have sigma·C·√(n/m) in each of d directions: a round's ratio is √(n·m) / (sigma·√d), which is
    n / (sigma·√d) for m = n. Over T rounds it is √T times that.
    """
    steps, count = sites[0].steps, len(sites)
    least = min_honest(config)
    noises = [site.noise_multiplier for site in sites]
    if config.privacy.unit == "site":
        per_step = math.sqrt(count * least / size) / max(noises)
        training = per_step * math.sqrt(steps)
    else:
        batch = config.local.batch_size
        per_step = batch / (max(noises) * math.sqrt(size))
        training = count * batch * math.sqrt(steps / size) / math.hypot(*noises)
    return Snr(size, per_step, training, _verdict(config, training))


def _verdict(config: FederationConfig, training: float) -> str:
    whole = "over the training"
    if training >= NOISY:
        return f"{whole} the data can move the model at most {_times(training)} as far as the noise"
    farther = f"{whole} the noise moves the model at least {_times(1 / training)} as far as the data"
    cure = (
        "more sites, a larger privacy.epsilon, fewer shared numbers (adapter.rank, adapter.layers), or "
        "privacy.unit record, which protects single records"
        if config.privacy.unit == "site"
        else "more records in a step (privacy.sampling_rate with local.batch_size), a larger "
        "privacy.epsilon, more sites, or fewer shared numbers (adapter.rank, adapter.layers)"
    )
    if training < DESTROYED:
        return f"this budget destroys the model: {farther}. What helps: {cure}"
    return f"expect a clearly worse model: {farther}. What helps: {cure}"


def _times(factor: float) -> str:
    return f"{factor:.2g} times" if factor < 10 else f"{factor:.0f} times"  # noqa: PLR2004 - two digits


def _site(config: FederationConfig, site: str) -> SitePlan:
    whole = resolve(config, site)
    per_round, delta = steps_per_round(config), config.privacy.delta

    def after(number: int) -> float:
        return epsilon([Event(whole.sampling_rate, whole.noise_multiplier, number * per_round)], delta)

    points = tuple((number, after(number)) for number in _points(config.rounds.max))
    return SitePlan(site, whole.sampling_rate, whole.noise_multiplier, whole.steps, points[-1][1], points)


def _points(rounds: int) -> Iterable[int]:
    """Return all rounds, or `MOST_POINTS` evenly spaced ones that include the first and the last."""
    if rounds <= MOST_POINTS:
        return range(1, rounds + 1)
    return [1 + round(i * (rounds - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)]
