"""MLflow's registry as users meet it: where it is, whose signature counts, how a version is loaded."""

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

PIN = "FEDLLM_PIN"  # environment: the coordinator's fingerprint, where none is given


def trusted_pin(name: str, given: str | None = None) -> str | None:
    """The fingerprint of the coordinator whose signature counts for a registered model.

    Args:
        name: the registered model's, which is the federation's.
        given: as its owner told it; None: that of `FEDLLM_PIN`, else of the keys that this machine itself
            holds as the federation's coordinator.

    Returns:
        None where nobody gave one and this machine is not the coordinator.

    Raises:
        ConfigError: what was given is no fingerprint.
        IdentityError: this machine holds keys that cannot be read.
    """
    told = given or os.environ.get(PIN)
    if not told:
        return coordinator_fingerprint(name)
    try:
        return read_fingerprint(told.strip())
    except ValueError as error:
        raise ConfigError(f"the pin {error}") from None


def trust_in(wanted: str, pin: str | None = None, *, unsigned: bool = False) -> "Trust":
    """Whose signature `models:/NAME@ALIAS` needs; arguments and errors as of `trusted_pin`."""
    from fedllm.tracking.fetch import Trust, registered_name

    return Trust(trusted_pin(registered_name(wanted), pin), unsigned)


def load_model(
    uri: str, *, pin: str | None = None, tracking_uri: str | None = None, unsigned: bool = False
) -> "OpenedModel":
    """Load a registered version whose files are those that its coordinator signed.

    `mlflow.pyfunc.load_model` runs the code that the artifact store returns. This runs fedllm's own, and
    reads no file of the version before all of them were held against the record.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        pin: the coordinator's fingerprint; None: as `trusted_pin` finds it.
        tracking_uri: MLflow's; None: MLFLOW_TRACKING_URI, else the local stack's.
        unsigned: also load a version without a record, as those registered by fedllm 0.1 are.

    Returns:
        A model with `predict`, which takes what the pyfunc takes.

    Raises:
        UntrustedVersionError: a file is not the one that was signed, or another key signed the record.
        TrackingError: MLflow is not known, does not answer, or has no such version.
        ModelError: the base is absent or another one.
    """
    from fedllm.tracking.fetch import open_version

    return open_version(uri, tracking_address(tracking_uri), trust_in(uri, pin, unsigned=unsigned))


def copy_version(
    uri: str, folder: Path, *, pin: str | None = None, tracking_uri: str | None = None
) -> "FetchedVersion":
    """Copy a version, once it was held against its record, into `folder`, from which MLflow may load it.

    Raises:
        UntrustedVersionError, TrackingError: as `load_model`.
        ConfigError: the folder is not empty.
    """
    from fedllm.tracking.fetch import fetch_version

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: a version goes into a folder of its own")
    return fetch_version(tracking_address(tracking_uri), uri, folder, trust_in(uri, pin))


def tracking_address(given: str | None) -> str:
    """MLflow's address: as given, as MLFLOW_TRACKING_URI says, or the local stack's.

    Raises:
        TrackingError: there is none.
    """
    here = endpoints()
    found = given or os.environ.get("MLFLOW_TRACKING_URI") or (here.mlflow_url if here else None)
    if found is None:
        raise TrackingError("no MLflow is known: start it with fedllm up, or set MLFLOW_TRACKING_URI")
    return found


def tracking_uri(config: FederationConfig) -> str | None:
    """MLflow's address; None when `auto` finds no stack, and then nothing is published.

    Raises:
        ConfigError: it is none; MLflow takes folders no longer.
    """
    given = config.tracking.uri
    if given != "auto":
        if "://" not in given:
            raise ConfigError(
                f"tracking.uri: {given!r} is no address: use auto, or http://HOST:PORT of MLflow"
            )
        return given
    here = endpoints()
    return here.mlflow_url if here else None


def open_register(config: FederationConfig, pin: str | None = None) -> "tuple[Register, Rules]":
    """The registry of a federation, and what it asks of a champion.

    Args:
        config: of the federation.
        pin: the coordinator's fingerprint, as `trusted_pin` takes it.

    Raises:
        ReviewError: no MLflow is known.
        ConfigError: the pin is no fingerprint.
    """
    from fedllm.review.gates import Rules
    from fedllm.review.register import Register

    uri = tracking_uri(config)
    if uri is None:
        raise ReviewError("no MLflow is known: start it with fedllm up, or set tracking.uri")
    rules = Rules(config.review.allowed_loss, config.privacy.on, trusted_pin(config.name, pin))
    return Register.at(uri, config.name), rules
