"""A configuration's privacy as the terms that every plan of a run carries."""

from fedllm.config import FederationConfig
from fedllm.errors import ConfigError
from fedllm.privacy.accounting import Event, epsilon, noise_multiplier
from fedllm.protocol.terms import NO_DP, PrivacyPlan, SiteTerms, rounded_up


def configured_privacy(config: FederationConfig) -> PrivacyPlan:
    """Return the privacy terms of a training.

    Raises:
        ConfigError: as `resolve`.
    """
    default, privacy = resolve(config), config.privacy
    assert privacy.unit != "none"  # noqa: S101 - `resolve` refuses it
    assert privacy.epsilon is not None  # noqa: S101 - the same
    assert privacy.clip is not None  # noqa: S101 - of the configuration's own check
    sites = {name: resolve(config, name) for name in sorted(privacy.sites)}
    return PrivacyPlan(
        sampling_rate=default.sampling_rate,
        noise_multiplier=default.noise_multiplier,
        unit=privacy.unit,
        unit_field=privacy.unit_field,
        max_per_person=privacy.max_per_person,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        clip=privacy.clip,
        rounds=config.rounds.max,
        steps=steps_per_round(config),
        min_honest=min_honest(config),
        sites={
            name: SiteTerms(sampling_rate=own.sampling_rate, noise_multiplier=own.noise_multiplier)
            for name, own in sites.items()
        },
    )


def resolve(config: FederationConfig, site: str | None = None) -> Event:
    """Return the event of a whole training at one site, or at any that privacy.sites does not name.

    `auto` noise is solved for. Steps are rounds.max times local.steps, or rounds.max where whole sites are
    the unit.

    Raises:
        ConfigError: There is no DP, the configured noise overspends privacy.epsilon, or no noise is enough.
    """
    privacy = config.privacy
    if not privacy.on or privacy.epsilon is None:
        raise ConfigError(f"{NO_DP}: set privacy.unit and privacy.epsilon first")
    rate = privacy.rate_at(site) if site is not None else privacy.sampling_rate or 1.0
    noise = privacy.noise_at(site) if site is not None else privacy.noise_multiplier
    steps = config.rounds.max * steps_per_round(config)
    if noise == "auto":
        return Event(rate, noise_multiplier(privacy.epsilon, privacy.delta, rate, steps), steps)
    whole = Event(rate, noise, steps)
    if (spent := epsilon([whole], privacy.delta)) > privacy.epsilon:
        least = noise_multiplier(privacy.epsilon, privacy.delta, rate, steps)
        raise ConfigError(
            f"privacy.noise_multiplier {noise:g} spends epsilon {rounded_up(spent)} in {steps} steps"
            f"{f' at {site}' if site else ''}, above privacy.epsilon {privacy.epsilon:g}: "
            f"take {least:g}, auto, or fewer rounds or steps"
        )
    return whole


def whole_training(plan: PrivacyPlan, site: str) -> Event:
    """Return the event of all steps that a training may take at a site, with the site's q and sigma."""
    own = plan.at(site)
    steps = plan.rounds * (1 if plan.unit == "site" else plan.steps)
    return Event(own.sampling_rate, own.noise_multiplier, steps)


def steps_per_round(config: FederationConfig) -> int:
    """Return the accountant's steps per round: those of DP-SGD, or 1 if whole sites are the unit."""
    return 1 if config.privacy.unit == "site" else config.local.steps


def min_honest(config: FederationConfig) -> int:
    """Return the number of surviving sites that are relied on to add noise, if whole sites are the unit."""
    return config.privacy.min_honest or config.rounds.min_sites
