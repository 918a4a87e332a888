"""The passwords of the stack's Prefect and MLflow, and the variables that pass them to clients."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.endpoints.kept_secrets import kept_secrets
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.secure.trust import MLFLOW_SWITCH, PREFECT_SWITCH

USER = "fedllm"  # name of Prefect's only account and of MLflow's administrator


@dataclass(frozen=True)
class Passwords:
    """The secrets of a stack's Prefect and MLflow; MinIO has its own."""

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    mlflow_forms: str = field(repr=False)  # key by which MLflow detects forged forms

    @property
    def prefect_auth(self) -> str:
        """The authentication string of Prefect's server and clients."""
        return f"{USER}:{self.prefect}"


def passwords(place: StackPaths) -> Passwords:
    """Return the stack's passwords, stored in a file of mode 600; generate them if it is missing.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read the file.
    """
    return kept_secrets(place, "passwords.json", Passwords, _draw, "restore it, or see docs/operations.md")


def _draw() -> Passwords:
    return Passwords(*(secrets.token_urlsafe(32) for _ in range(3)))


def prefect_client(credentials: Passwords, ca: Path | None = None) -> dict[str, str]:
    """Return the variables of a client of the stack's own Prefect: credentials and, with TLS, the CA."""
    env = {"PREFECT_API_AUTH_STRING": credentials.prefect_auth}
    if ca is not None:
        # The switch is set explicitly, so that no settings file can enable it.
        env |= {"PREFECT_API_SSL_CERT_FILE": str(ca), PREFECT_SWITCH: "false"}
    return env


def mlflow_client(credentials: Passwords, ca: Path | None = None) -> dict[str, str]:
    """Return the variables of a client of the stack's MLflow: credentials and, with TLS, the CA."""
    env = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": credentials.mlflow}
    if ca is not None:
        env |= {
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(ca),
            MLFLOW_SWITCH: "false",
            # Files go through MLflow's server: directly from the store they would have a certificate that
            # MLflow's client cannot check, and an address that only this machine can reach.
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
            "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        }
    return env
