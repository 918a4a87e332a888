"""The privacy of a training: made from the configuration once, and word for word the same in every plan."""

from fedllm.coordinator.training import Training
from fedllm.protocol.terms import PrivacyPlan, SiteTerms


def privacy_plan(training: Training) -> PrivacyPlan | None:
    """What a run's plans say about privacy; None where no DP is configured."""
    if not training.config.privacy.on:
        return None
    key = f"{training.config.name}/privacy/{training.run}"
    text = training.journal.commit_bytes(key, lambda: _made(training).model_dump_json().encode())
    return PrivacyPlan.model_validate_json(text)


def _made(training: Training) -> PrivacyPlan:
    from fedllm.privacy.planning import resolve

    config = training.config
    asked = config.privacy
    assert asked.unit != "none"  # noqa: S101 - the caller asked
    assert asked.epsilon is not None  # noqa: S101 - of the configuration's own check
    assert asked.clip is not None  # noqa: S101 - the same
    default = resolve(config)
    return PrivacyPlan(
        sampling_rate=default.sampling_rate,
        noise_multiplier=default.noise_multiplier,
        unit=asked.unit,
        unit_field=asked.unit_field,
        max_per_person=asked.max_per_person,
        epsilon=asked.epsilon,
        delta=asked.delta,
        clip=asked.clip,
        rounds=config.rounds.max,
        steps=1 if asked.unit == "site" else config.local.steps,
        min_honest=asked.min_honest or config.rounds.min_sites,
        sites={name: _terms(training, name) for name in sorted(asked.sites)},
    )


def _terms(training: Training, site: str) -> SiteTerms:
    from fedllm.privacy.planning import resolve

    mine = resolve(training.config, site)
    return SiteTerms(sampling_rate=mine.sampling_rate, noise_multiplier=mine.noise_multiplier)
