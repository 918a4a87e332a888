"""The passwords of the stack's Prefect and MLflow, and the environment in which clients present them."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.endpoints.kept_secrets import kept_secrets
from fedllm.endpoints.place import Place
from fedllm.secure.trust import MLFLOW_SWITCH, PREFECT_SWITCH

USER = "fedllm"  # of Prefect's one account and of MLflow's administrator


@dataclass(frozen=True)
class Passwords:
    """The secrets of one stack's servers; MinIO has its own."""

    prefect: str = field(repr=False)
    mlflow: str = field(repr=False)
    mlflow_forms: str = field(repr=False)  # by which MLflow tells its own forms from forged ones

    @property
    def prefect_auth(self) -> str:
        """What Prefect's server and clients call the authentication string."""
        return f"{USER}:{self.prefect}"


def passwords(place: Place) -> Passwords:
    """The passwords of the stack, kept in a file of mode 600 and drawn when there is none.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read it.
    """
    return kept_secrets(place, "passwords.json", Passwords, _drawn, "restore it, or see docs/operations.md")


def _drawn() -> Passwords:
    return Passwords(*(secrets.token_urlsafe(32) for _ in range(3)))


def prefect_client(drawn: Passwords, ca: Path | None = None) -> dict[str, str]:
    """What a client of the stack's own Prefect needs: how to say who asks and, with TLS, whom to believe."""
    env = {"PREFECT_API_AUTH_STRING": drawn.prefect_auth}
    if ca is not None:
        # The switch is said outright, so that no settings file says otherwise.
        env |= {"PREFECT_API_SSL_CERT_FILE": str(ca), PREFECT_SWITCH: "false"}
    return env


def mlflow_client(drawn: Passwords, ca: Path | None = None) -> dict[str, str]:
    """What a client of the stack's MLflow needs: how to say who asks and, with TLS, whom to believe."""
    env = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": drawn.mlflow}
    if ca is not None:
        env |= {
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(ca),
            MLFLOW_SWITCH: "false",
            # Files go through MLflow: straight from the store they would come by a certificate that MLflow's
            # client has no way to check, and by an address that only this machine can reach.
            "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
            "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
        }
    return env
