"""The privacy plan of a training, made once from the configuration and identical in every plan."""

from fedllm.config import FederationConfig
from fedllm.coordinator.training import Training
from fedllm.protocol.terms import PrivacyPlan


def privacy_plan(training: Training) -> PrivacyPlan | None:
    """Return the privacy plan of a run; None without DP."""
    if not training.config.privacy.on:
        return None
    key = f"{training.config.name}/privacy/{training.run}"
    text = training.journal.commit_bytes(key, lambda: _encoded(training.config))
    return PrivacyPlan.model_validate_json(text)


def _encoded(config: FederationConfig) -> bytes:
    from fedllm.privacy.configured import configured_privacy

    return configured_privacy(config).model_dump_json().encode()
