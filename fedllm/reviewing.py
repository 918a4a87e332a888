"""A federation's registry from its configuration, for whoever decides about versions: a person or a flow."""

from fedllm.config import FederationConfig
from fedllm.errors import ReviewError
from fedllm.review.gates import Rules
from fedllm.review.register import Register
from fedllm.session import tracking_uri
from fedllm.versions import trusted_pin


def open_register(config: FederationConfig, pin: str | None = None) -> tuple[Register, Rules]:
    """The registry of a federation, and what it asks of a champion.

    Args:
        config: of the federation.
        pin: the coordinator's fingerprint, as `trusted_pin` takes it.

    Raises:
        ReviewError: no MLflow is known.
        ConfigError: the pin is no fingerprint.
    """
    uri = tracking_uri(config)
    if uri is None:
        raise ReviewError("no MLflow is known: start it with fedllm up, or set tracking.uri")
    rules = Rules(config.review.allowed_loss, config.privacy.on, trusted_pin(config.name, pin))
    return Register.at(uri, config.name), rules
