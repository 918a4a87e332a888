"""Find MLflow's registry, the coordinator whose signature is trusted, and load registered versions."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.config import FederationConfig
from fedllm.config.site import read_fingerprint
from fedllm.coordinator.members import coordinator_fingerprint
from fedllm.endpoints import endpoints
from fedllm.errors import ConfigError, ReviewError, TrackingError

if TYPE_CHECKING:
    from fedllm.review.gates import Rules
    from fedllm.review.register import Register
    from fedllm.tracking.fetch import FetchedVersion, OpenedModel, Trust

PIN = "FEDLLM_PIN"  # environment variable: the coordinator's fingerprint


def trusted_pin(name: str, pin: str | None = None) -> str | None:
    """Return the fingerprint of the coordinator whose signature is trusted for a registered model.

    Args:
        name: of the registered model, which is the federation's.
        pin: a fingerprint; None: the one in `FEDLLM_PIN`, or else of this machine's own keys as the
            federation's coordinator.

    Returns:
        The fingerprint; None if there is no pin and this machine is not the coordinator.

    Raises:
        ConfigError: the pin is not a fingerprint.
        IdentityError: this machine's keys cannot be read.
    """
    pin = pin or os.environ.get(PIN)
    if not pin:
        return coordinator_fingerprint(name)
    try:
        return read_fingerprint(pin.strip())
    except ValueError as error:
        raise ConfigError(f"the pin {error}") from None


def trust_in(uri: str, pin: str | None = None, *, unsigned: bool = False) -> "Trust":
    """Return the trust that `models:/NAME@ALIAS` is checked against; `pin` and errors as in `trusted_pin`."""
    from fedllm.tracking.fetch import Trust, registered_name

    return Trust(trusted_pin(registered_name(uri), pin), unsigned)


def load_model(
    uri: str, *, pin: str | None = None, tracking_uri: str | None = None, unsigned: bool = False
) -> "OpenedModel":
    """Load a registered version after a check that its files are those that the coordinator signed.

    `mlflow.pyfunc.load_model` runs code from the artifact store. This function runs only fedllm's code, and
    checks all files of the version against the signed record before it loads any.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        pin: the coordinator's fingerprint; None: the default of `trusted_pin`.
        tracking_uri: MLflow's address; None: MLFLOW_TRACKING_URI, or else the local stack's.
        unsigned: also load versions without a record, such as those registered by fedllm 0.1.

    Returns:
        A model whose `predict` takes the same input as the pyfunc's.

    Raises:
        UntrustedVersionError: a file differs from the signed one, or another key signed the record.
        TrackingError: MLflow's address is unknown, it does not answer, or it has no such version.
        ModelError: the base model is missing or a different one.
    """
    from fedllm.tracking.fetch import open_version

    return open_version(uri, tracking_address(tracking_uri), trust_in(uri, pin, unsigned=unsigned))


def copy_version(
    uri: str, folder: Path, *, pin: str | None = None, tracking_uri: str | None = None
) -> "FetchedVersion":
    """Check a version against its record and copy it into `folder`, from which MLflow can load it.

    Raises:
        UntrustedVersionError, TrackingError: as in `load_model`.
        ConfigError: the folder is not empty.
    """
    from fedllm.tracking.fetch import fetch_version

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: a version goes into a folder of its own")
    return fetch_version(tracking_address(tracking_uri), uri, folder, trust_in(uri, pin))


def tracking_address(uri: str | None) -> str:
    """Return `uri`, or else MLFLOW_TRACKING_URI, or else the local stack's MLflow.

    Raises:
        TrackingError: none of them is set.
    """
    stack = endpoints()
    address = uri or os.environ.get("MLFLOW_TRACKING_URI") or (stack.mlflow_url if stack else None)
    if address is None:
        raise TrackingError("no MLflow is known: start it with fedllm up, or set MLFLOW_TRACKING_URI")
    return address


def tracking_uri(config: FederationConfig) -> str | None:
    """Return MLflow's address; None if `auto` finds no stack: nothing is published then.

    Raises:
        ConfigError: it is not a URL; MLflow no longer accepts folders.
    """
    uri = config.tracking.uri
    if uri != "auto":
        if "://" not in uri:
            raise ConfigError(f"tracking.uri: {uri!r} is no address: use auto, or http://HOST:PORT of MLflow")
        return uri
    stack = endpoints()
    return stack.mlflow_url if stack else None


def open_register(config: FederationConfig, pin: str | None = None) -> "tuple[Register, Rules]":
    """Return a federation's registry and its rules for a champion.

    Args:
        config: the federation.
        pin: the coordinator's fingerprint; None: the default of `trusted_pin`.

    Raises:
        ReviewError: MLflow's address is unknown.
        ConfigError: the pin is not a fingerprint.
    """
    from fedllm.review.gates import Rules
    from fedllm.review.register import Register

    uri = tracking_uri(config)
    if uri is None:
        raise ReviewError("no MLflow is known: start it with fedllm up, or set tracking.uri")
    rules = Rules(config.review.allowed_loss, config.privacy.on, trusted_pin(config.name, pin))
    return Register.at(uri, config.name), rules
