"""Where the servers of the running stack answer."""

from dataclasses import dataclass, field
from pathlib import Path

from fedllm.stack.place import Place, StackState
from fedllm.stack.programs import QUIET, root_credentials
from fedllm.stack.supervise import Control

BUCKET = "fedllm"


@dataclass(frozen=True)
class Endpoints:
    """Addresses and credentials of one stack, for the coordinator on the same machine."""

    minio_url: str
    minio_access_key: str
    minio_secret_key: str = field(repr=False)
    bucket: str
    prefect_api_url: str
    prefect_ui_url: str
    mlflow_url: str
    home: Path  # fedllm's home
    own_prefect: bool = True  # False: the user's PREFECT_API_URL

    def environment(self) -> dict[str, str]:
        """What child processes and in-process flows need to use these servers."""
        env = {
            **QUIET,
            "FEDLLM_HOME": str(self.home),
            "PREFECT_API_URL": self.prefect_api_url,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }
        if self.own_prefect:
            env["PREFECT_HOME"] = str(Place(self.home).prefect_home)
        return env


def read_endpoints(place: Place, state: StackState) -> Endpoints:
    """The addresses that a state stands for, whether or not anything answers there."""
    access_key, secret_key = root_credentials(place)
    api = state.external_prefect or state.own_prefect_url
    return Endpoints(
        minio_url=f"http://127.0.0.1:{state.ports['minio']}",
        minio_access_key=access_key,
        minio_secret_key=secret_key,
        bucket=BUCKET,
        prefect_api_url=api,
        prefect_ui_url=api.removesuffix("/").removesuffix("/api"),
        mlflow_url=f"http://127.0.0.1:{state.ports['mlflow']}",
        home=place.home,
        own_prefect=state.external_prefect is None,
    )


def endpoints() -> Endpoints | None:
    """The running stack of `$FEDLLM_HOME`, or None when it is not up."""
    place = Place.here()
    state = StackState.load(place)
    if {"minio", "mlflow"} - state.ports.keys() or not Control(place).alive():
        return None
    return read_endpoints(place, state)
