"""Where the servers of the running stack answer. Knows nothing of how they are supervised."""

import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from fedllm.endpoints.passwords import Passwords, mlflow_client, passwords, prefect_client
from fedllm.endpoints.place import Place
from fedllm.endpoints.state import StackState
from fedllm.endpoints.store_users import BUCKET, store_secrets
from fedllm.secure.trust import read_ca, refuse_unchecked

# No server of the stack calls home, looks for updates, or sends loopback traffic through a proxy.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Endpoints:
    """Addresses and credentials of one stack, for the coordinator on the same machine."""

    minio_url: str  # the store itself
    door_url: str  # where sites come in
    minio_access_key: str
    minio_secret_key: str = field(repr=False)
    registrar: tuple[str, str] = field(repr=False)  # the keys that make sites' users
    bucket: str
    prefect_api_url: str
    prefect_ui_url: str
    mlflow_url: str
    home: Path  # fedllm's home
    own_prefect: bool = True  # False: the user's PREFECT_API_URL
    ca_file: Path | None = None  # who vouches for the servers; None: they speak no TLS
    passwords: Passwords | None = None  # of Prefect and MLflow; None: they ask nobody who he is

    def environment(self) -> dict[str, str]:
        """What child processes and in-process flows need to use these servers; it holds their passwords.

        Raises:
            ConfigError: the servers speak TLS, and this process' environment switches its checks off.
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
            env["PREFECT_HOME"] = str(Place(self.home).prefect_home)
            if self.passwords:
                env |= prefect_client(self.passwords, self.ca_file)
        return env | self.mlflow_credentials()

    def mlflow_credentials(self) -> dict[str, str]:
        """What a client of this MLflow alone needs beside its address; nothing of an open one."""
        return mlflow_client(self.passwords, self.ca_file) if self.passwords else {}

    @property
    def ca(self) -> str | None:
        """PEM of the authority that vouches for the servers; None: they speak no TLS."""
        return read_ca(self.ca_file) if self.ca_file else None


def read_endpoints(place: Place, state: StackState) -> Endpoints:
    """The addresses that a state stands for, whether or not anything answers there."""
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
    """The running stack of `$FEDLLM_HOME`, or None when it is not up.

    Raises:
        StackError: the home cannot be read, or what the stack remembers is damaged.
    """
    place = Place.here()
    with place.usable():
        state = StackState.load(place)
        if {"minio", "door", "mlflow"} - state.ports.keys() or not _supervised(place):
            return None
        return read_endpoints(place, state)


def _supervised(place: Place) -> bool:
    """Whether a supervisor listens on the stack's socket."""
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(place.socket()))
        except OSError:
            return False
    return True
