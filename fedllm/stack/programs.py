"""The stack's programs: the command and environment of each server and the worker."""

import os
import sys
from dataclasses import dataclass, field

from fedllm.endpoints.addresses import QUIET
from fedllm.endpoints.passwords import Passwords, mlflow_client, passwords, prefect_client
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.endpoints.store_users import BUCKET, MLFLOW_BUCKET, store_secrets
from fedllm.secure.ca import ServerCertificate
from fedllm.stack.databases import VARIABLES, databases
from fedllm.stack.door import Door, door_command
from fedllm.stack.minio import minio_commands, minio_credentials, minio_environment
from fedllm.stack.security import certificates, mlflow_auth_environment, uvicorn_environment

POOL = "fedllm"  # Prefect's work pool
WORKER = "fedllm-worker"

# Set by the user for a reverse proxy in front of a secure stack: the names that browsers use.
BEHIND_A_PROXY = ("PREFECT_SERVER_UI_API_URL", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS")


@dataclass(frozen=True)
class Program:
    """One process under supervisord."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    autostart: bool = True
    stop_seconds: int = 10  # between SIGTERM and SIGKILL


def root_credentials(place: StackPaths) -> tuple[str, str]:
    """Return MinIO's root access key and secret key, created once."""
    return minio_credentials(place.minio)


def base_environment(place: StackPaths, *, own_prefect: bool) -> dict[str, str]:
    """Return the caller's environment without variables that would redirect the servers.

    The heartbeat of flows stays unset: its thread costs 1 s at the end of every flow.
    """
    foreign = ("MLFLOW_", "AWS_", "MINIO_", "UVICORN_") + (("PREFECT_",) if own_prefect else ())
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    for name in ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", *VARIABLES.values()):
        env.pop(name, None)  # a database's password is for its own server
    hosts = [h for h in (env.get("NO_PROXY") or env.get("no_proxy") or "").split(",") if h]
    env["NO_PROXY"] = env["no_proxy"] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    env["FEDLLM_STACK"] = place.tag
    env["FEDLLM_HOME"] = str(place.home)
    env["TMPDIR"] = str(place.temporary())
    return env | QUIET


def programs(place: StackPaths, state: StackState) -> list[Program]:
    """Return the stack's programs; only the worker waits until its server answers."""
    credentials = passwords(place) if state.has_passwords else None
    served = certificates(place) if state.secure else None
    result = [_minio(place, state), _door(place, state, served), _mlflow(place, state)]
    if state.external_prefect is None:
        result.append(_prefect(place, state))
    result.append(_worker(place, state))
    env = {program.name: program.env for program in result}
    if credentials is not None:
        _add_passwords(place, env, credentials, served)
    if served is not None:
        _add_tls(place, env, served)
    return result


def _minio(place: StackPaths, state: StackState) -> Program:
    _, gateway = minio_commands(place.minio, state.ports["minio"], place.logs / "minio.log")
    return Program("minio", gateway, minio_environment(*root_credentials(place)))


def _door(place: StackPaths, state: StackState, served: ServerCertificate | None) -> Program:
    door = Door(
        listen=f"127.0.0.1:{state.ports['door']}",
        store=state.url("minio"),
        bucket=BUCKET,
        certificate=served.certificate if served else None,
        key=served.key if served else None,
        store_ca=served.ca if served else None,
    )
    return Program("door", door_command(door, place.folder / "door"))


def _mlflow(place: StackPaths, state: StackState) -> Program:
    _, _, user = store_secrets(place).users()
    argv = [
        *(sys.executable, "-m", "fedllm.stack.mlflow_server", "server", "--host", "127.0.0.1"),
        *("--port", str(state.ports["mlflow"]), "--workers", "1"),
        *("--artifacts-destination", f"s3://{MLFLOW_BUCKET}"),
        *(("--app-name", "basic-auth") if state.has_passwords else ()),
    ]
    env = {
        "AWS_ACCESS_KEY_ID": user.name,
        "AWS_SECRET_ACCESS_KEY": user.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # Not all S3 servers support boto3's newer checksums.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        # Not on the command line, which every user of this machine can read.
        "MLFLOW_BACKEND_STORE_URI": databases(place).mlflow or f"sqlite:///{place.folder / 'mlflow.db'}",
        "MLFLOW_S3_ENDPOINT_URL": state.url("minio"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no job runners beside the server
    }
    return Program("mlflow", argv, env)


def _prefect(place: StackPaths, state: StackState) -> Program:
    # Prefect's own command has no options for TLS or the SQLite timeout: this is what it runs inside.
    argv = [
        *(sys.executable, "-m", "uvicorn", "--factory", "fedllm.stack.prefect_server:create_app"),
        *("--host", "127.0.0.1", "--port", str(state.ports["prefect"])),
        *("--log-level", "warning", "--timeout-keep-alive", "5"),
    ]
    own = {
        "PREFECT__SERVER_FINAL": "1",  # as `prefect server start` sets it
        # The page may have one of two addresses and send its requests to the other.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(_pages(state)),
        # Prefect writes its pages here; by default into the installation, which may be another user's.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(place.folder / "pages"),
    }
    if url := databases(place).prefect:
        own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    return Program("prefect", argv, _prefect_address(place, state) | own)


def _pages(state: StackState) -> list[str]:
    """Return the origins of Prefect's page."""
    own = state.own_prefect_url.removesuffix("/api")
    shown = os.environ.get("PREFECT_SERVER_UI_API_URL", "").rstrip("/").removesuffix("/api")
    return [own, own.replace("127.0.0.1", "localhost"), *([shown] if shown else [])]


def _worker(place: StackPaths, state: StackState) -> Program:
    argv = [
        *(sys.executable, "-m", "prefect", "worker", "start"),
        *("--pool", POOL, "--type", "process", "--name", WORKER),
    ]
    env = {
        "MLFLOW_TRACKING_URI": state.url("mlflow"),
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # s until a triggered run starts; the default is 10
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "10",
    }
    return Program("worker", argv, _prefect_address(place, state) | env, autostart=False)


def _prefect_address(place: StackPaths, state: StackState) -> dict[str, str]:
    env = {
        "PREFECT_API_URL": state.external_prefect or state.own_prefect_url,
        "PREFECT_CLI_PROMPT": "false",
    }
    if state.external_prefect is None:
        env["PREFECT_HOME"] = str(place.prefect_home)
    return env


def _add_passwords(
    place: StackPaths,
    env: dict[str, dict[str, str]],
    credentials: Passwords,
    served: ServerCertificate | None,
) -> None:
    """Add the variables for passwords to the programs' environments, by name."""
    ca = served.ca if served else None
    env["mlflow"] |= mlflow_auth_environment(place, credentials)
    env["worker"] |= mlflow_client(credentials, ca)  # flows run in the worker's environment
    if "prefect" in env:
        client = prefect_client(credentials, ca)
        env["worker"] |= client
        env["prefect"] |= client  # its services are clients of their own server
        env["prefect"]["PREFECT_SERVER_API_AUTH_STRING"] = credentials.prefect_auth


def _add_tls(place: StackPaths, env: dict[str, dict[str, str]], served: ServerCertificate) -> None:
    """Add the variables for TLS to the programs' environments, by name."""
    for name in ("mlflow", "prefect"):
        if name in env:
            env[name] |= {key: os.environ[key] for key in BEHIND_A_PROXY if key in os.environ}
            env[name] |= uvicorn_environment(served)
    env["minio"]["HOME"] = str(place.minio_home)
    env["mlflow"]["AWS_CA_BUNDLE"] = str(served.ca)
