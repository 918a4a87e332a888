"""Addresses and credentials of the running stack's servers, independent of how they are supervised."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedllm.endpoints.passwords import Passwords, mlflow_client, passwords, prefect_client
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.endpoints.store_users import BUCKET, store_secrets
from fedllm.secure.trust import read_ca, refuse_unchecked

# No server of the stack sends telemetry or looks for updates.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Endpoints:
    """Addresses and credentials of one stack, for the coordinator on the same machine."""

    minio_url: str  # the store, for the coordinator
    door_url: str  # the store, for sites
    minio_access_key: str
    minio_secret_key: str = field(repr=False)
    registrar: tuple[str, str] = field(repr=False)  # access and secret key that create sites' users
    bucket: str
    prefect_api_url: str
    prefect_ui_url: str
    mlflow_url: str
    home: Path  # fedllm's home
    own_prefect: bool = True  # False: the user's PREFECT_API_URL
    ca_file: Path | None = None  # CA of the servers' certificates; None: no TLS
    passwords: Passwords | None = None  # of Prefect and MLflow; None: they are open

    def environment(self) -> dict[str, str]:
        """Return the variables, with passwords, that child processes and flows need to use these servers.

        Raises:
            ConfigError: the servers use TLS, and this process's environment disables its checks.
        """
        if "https" in {urlsplit(self.mlflow_url).scheme, urlsplit(self.prefect_api_url).scheme}:
            refuse_unchecked()
        env = {
            **QUIET,
            "FEDLLM_HOME": str(self.home),
            "PREFECT_API_URL": self.prefect_api_url,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }
        if self.own_prefect:
            env["PREFECT_HOME"] = str(StackPaths(self.home).prefect_home)
            if self.passwords:
                env |= prefect_client(self.passwords, self.ca_file)
        return env | self.mlflow_credentials()

    def mlflow_credentials(self) -> dict[str, str]:
        """Return the variables that a client of this MLflow needs besides its address; {} if it is open."""
        return mlflow_client(self.passwords, self.ca_file) if self.passwords else {}

    @property
    def ca(self) -> str | None:
        """PEM of the CA of the servers' certificates; None: no TLS."""
        return read_ca(self.ca_file) if self.ca_file else None


def read_endpoints(place: StackPaths, state: StackState) -> Endpoints:
    """Return the endpoints of a state, whether or not the servers answer."""
    coordinator, registrar, _ = store_secrets(place).users()
    api = state.external_prefect or state.own_prefect_url
    return Endpoints(
        minio_url=state.url("minio"),
        door_url=state.url("door"),
        minio_access_key=coordinator.name,
        minio_secret_key=coordinator.secret,
        registrar=(registrar.name, registrar.secret),
        bucket=BUCKET,
        prefect_api_url=api,
        prefect_ui_url=api.removesuffix("/").removesuffix("/api"),
        mlflow_url=state.url("mlflow"),
        home=place.home,
        own_prefect=state.external_prefect is None,
        ca_file=place.ca / "ca.crt" if state.secure else None,
        passwords=passwords(place) if state.has_passwords else None,
    )


def endpoints() -> Endpoints | None:
    """Return the running stack of `$FEDLLM_HOME`; None if it is not up.

    Raises:
        StackError: the home cannot be read, or the stack's state file is damaged.
    """
    place = StackPaths.here()
    with place.usable():
        state = StackState.load(place)
        if {"minio", "door", "mlflow"} - state.ports.keys() or not _supervised(place):
            return None
        return read_endpoints(place, state)


def _supervised(place: StackPaths) -> bool:
    """Return whether supervisord listens on the stack's socket."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(place.socket()))
        except OSError:
            return False
    return True
