"""Passwords for Prefect and MLflow, what `fedllm up --secure` adds to them, and how clients are told."""

import shlex
from collections.abc import Mapping
from dataclasses import replace

from fedllm.endpoints.passwords import USER, Passwords
from fedllm.endpoints.place import Place
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, StackError
from fedllm.secure.ca import ServerCertificate, server_certificate
from fedllm.stack.minio import install_certificate


def chosen(state: StackState, secure: bool | None, open_to_all: bool | None) -> StackState:
    """The state with what holds from this start on of TLS and of passwords; None: as last time.

    Raises:
        ConfigError: TLS without passwords.
    """
    encrypted = state.secure if secure is None else secure
    if encrypted and open_to_all:
        raise ConfigError("a stack with TLS has passwords: `fedllm up --no-secure --open` has neither")
    # A stack of an older fedllm had no choice, and one with TLS has passwords also when TLS goes.
    opened = not encrypted and (state.open is True if open_to_all is None else open_to_all)
    return replace(state, secure=encrypted, open=opened)


def refuse_another_choice(state: StackState, secure: bool | None, open_to_all: bool | None) -> None:
    """Leave a stack that is up as it is. Raises `StackError` when it is wanted otherwise."""
    if secure is not None and secure != state.secure:
        has, wish = ("with", "--no-secure") if state.secure else ("without", "--secure")
        raise StackError(
            f"the stack is up {has} TLS: `fedllm down`, then `fedllm up {wish}`; sites that were invited"
            " before need new invitations (`fedllm site add CARD --replace`)"
        )
    if open_to_all is not None and open_to_all == state.has_passwords:
        has, wish = ("with", "--open") if state.has_passwords else ("without", "--no-open")
        raise StackError(f"the stack is up {has} passwords: `fedllm down`, then `fedllm up {wish}`")


def certificates(place: Place) -> ServerCertificate:
    """The servers' certificate, made or renewed, with MinIO's copy where MinIO looks for it."""
    found = server_certificate(place.ca)
    install_certificate(found, place.minio_home)
    return found


def uvicorn_environment(found: ServerCertificate) -> dict[str, str]:
    """By this uvicorn, which serves both Prefect and MLflow, speaks TLS and nothing else."""
    return {"UVICORN_SSL_CERTFILE": str(found.certificate), "UVICORN_SSL_KEYFILE": str(found.key)}


def mlflow_auth_environment(place: Place, drawn: Passwords) -> dict[str, str]:
    """MLflow's own accounts: its administrator is made at the first start, others by its interface."""
    database = str(place.folder / "mlflow-auth.db").replace("%", "%%")  # MLflow interpolates the file
    lines = [
        "[mlflow]",
        "default_permission = READ",  # of accounts that the administrator adds, such as a reviewer's
        f"database_uri = sqlite:///{database}",
        "auth_cache_ttl_seconds = 60",  # passwords are hashed slowly; else every call would pay for that
    ]
    path = place.folder / "mlflow-auth.ini"
    place.write_private(path, "\n".join(lines) + "\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": drawn.mlflow,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": drawn.mlflow_forms,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }


def write_client_env(place: Place, environment: Mapping[str, str]) -> None:
    """Write the shell file by which `prefect` or `mlflow` reach the stack: `. client.env`."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    place.write_private(place.client_env, "\n".join(lines) + "\n")
