"""The privacy of a training: made from the configuration once, and word for word the same in every plan."""

from fedllm.config import FederationConfig
from fedllm.coordinator.training import Training
from fedllm.protocol.terms import PrivacyPlan


def privacy_plan(training: Training) -> PrivacyPlan | None:
    """What a run's plans say about privacy; None where no DP is configured."""
    if not training.config.privacy.on:
        return None
    key = f"{training.config.name}/privacy/{training.run}"
    text = training.journal.commit_bytes(key, lambda: _made(training.config))
    return PrivacyPlan.model_validate_json(text)


def _made(config: FederationConfig) -> bytes:
    from fedllm.privacy.configured import configured_privacy

    return configured_privacy(config).model_dump_json().encode()
