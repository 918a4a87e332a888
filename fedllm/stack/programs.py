"""The servers of the stack: how each is started, with which environment."""

import os
import sys
from dataclasses import dataclass, field

from fedllm.stack.minio import minio_commands, minio_credentials, minio_environment
from fedllm.stack.place import Place, StackState

POOL = "fedllm"  # Prefect's work pool
WORKER = "fedllm-worker"

# No server of the stack calls home, looks for updates, or sends loopback traffic through a proxy.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Program:
    """One process under supervisord."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    autostart: bool = True
    stop_seconds: int = 10  # between SIGTERM and SIGKILL


def root_credentials(place: Place) -> tuple[str, str]:
    """MinIO's root access key and secret key, made once."""
    return minio_credentials(place.minio)


def base_environment(place: Place, *, own_prefect: bool) -> dict[str, str]:
    """The caller's environment without what would turn the servers elsewhere.

    The heartbeat of flows stays unset: its thread costs a second at the end of every flow.
    """
    foreign = ("MLFLOW_", "AWS_", "MINIO_") + (("PREFECT_",) if own_prefect else ())
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    env.pop("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", None)
    hosts = [h for h in (env.get("NO_PROXY") or env.get("no_proxy") or "").split(",") if h]
    env["NO_PROXY"] = env["no_proxy"] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    env["FEDLLM_STACK"] = place.tag
    env["FEDLLM_HOME"] = str(place.home)
    return env | QUIET


def programs(place: Place, state: StackState) -> list[Program]:
    """The stack's processes; the worker alone waits until its server answers."""
    access_key, secret_key = root_credentials(place)
    minio = state.ports["minio"]
    mlflow = state.ports["mlflow"]
    _, gateway = minio_commands(place.minio, minio, place.logs / "minio.log")
    found = [
        Program("minio", gateway, minio_environment(access_key, secret_key)),
        Program(
            "mlflow",
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow)),
                *("--workers", "1", "--backend-store-uri", f"sqlite:///{place.folder / 'mlflow.db'}"),
                *("--artifacts-destination", "s3://mlflow"),
            ],
            {
                "AWS_ACCESS_KEY_ID": access_key,
                "AWS_SECRET_ACCESS_KEY": secret_key,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                # S3 servers other than Amazon's do not all know boto3's newer checksums.
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
                "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{minio}",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no job runners beside the server
            },
        ),
    ]
    prefect = {
        "PREFECT_API_URL": state.external_prefect or state.own_prefect_url,
        "PREFECT_CLI_PROMPT": "false",
    }
    if state.external_prefect is None:
        prefect["PREFECT_HOME"] = str(place.prefect_home)
        port = str(state.ports["prefect"])
        argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        found.append(Program("prefect", argv, prefect))
    worker = [
        *(sys.executable, "-m", "prefect", "worker", "start"),
        *("--pool", POOL, "--type", "process", "--name", WORKER),
    ]
    address = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # s until a triggered run starts; the default is 10
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    }
    found.append(Program("worker", worker, prefect | address, autostart=False))
    return found
