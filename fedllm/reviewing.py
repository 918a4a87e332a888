"""A federation's registry from its configuration, for whoever decides about versions: a person or a flow."""

from fedllm.config import FederationConfig
from fedllm.errors import ReviewError
from fedllm.session import tracking_uri
from fedllm.tracking.gates import Rules
from fedllm.tracking.register import Register


def open_register(config: FederationConfig) -> tuple[Register, Rules]:
    """The registry of a federation, and what it asks of a champion.

    Raises:
        ReviewError: no MLflow is known.
    """
    uri = tracking_uri(config)
    if uri is None:
        raise ReviewError("no MLflow is known: start it with fedllm up, or set tracking.uri")
    return Register.at(uri, config.name), Rules(config.review.allowed_loss, config.privacy.on)
