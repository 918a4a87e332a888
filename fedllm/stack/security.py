"""The stack's choice of TLS and passwords, and the variables and files that apply it."""

import shlex
from collections.abc import Mapping
from dataclasses import replace

from fedllm.endpoints.passwords import USER, Passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, StackError
from fedllm.secure.ca import ServerCertificate, server_certificate
from fedllm.stack.minio import install_certificate


def with_security(state: StackState, secure: bool | None, open_to_all: bool | None) -> StackState:
    """Return the state with the choice of TLS and passwords for this start; None: as last time.

    Raises:
        ConfigError: TLS without passwords.
    """
    encrypted = state.secure if secure is None else secure
    if encrypted and open_to_all:
        raise ConfigError("a stack with TLS has passwords: `fedllm up --no-secure --open` has neither")
    # A stack with TLS keeps its passwords when TLS is switched off. Older versions did not store `open`.
    opened = not encrypted and (state.open is True if open_to_all is None else open_to_all)
    return replace(state, secure=encrypted, open=opened)


def refuse_security_change(state: StackState, secure: bool | None, open_to_all: bool | None) -> None:
    """Raise `StackError` if a running stack has another choice of TLS or passwords."""
    if secure is not None and secure != state.secure:
        has, wish = ("with", "--no-secure") if state.secure else ("without", "--secure")
        raise StackError(
            f"the stack is up {has} TLS: `fedllm down`, then `fedllm up {wish}`; sites that were invited"
            " before need new invitations (`fedllm site add CARD --replace`)"
        )
    if open_to_all is not None and open_to_all == state.has_passwords:
        has, wish = ("with", "--open") if state.has_passwords else ("without", "--no-open")
        raise StackError(f"the stack is up {has} passwords: `fedllm down`, then `fedllm up {wish}`")


def certificates(place: StackPaths) -> ServerCertificate:
    """Create or renew the servers' certificate, and install MinIO's copy."""
    served = server_certificate(place.ca)
    install_certificate(served, place.minio_home)
    return served


def uvicorn_environment(served: ServerCertificate) -> dict[str, str]:
    """Return the variables that make uvicorn, which serves Prefect and MLflow, accept only TLS."""
    return {"UVICORN_SSL_CERTFILE": str(served.certificate), "UVICORN_SSL_KEYFILE": str(served.key)}


def mlflow_auth_environment(place: StackPaths, credentials: Passwords) -> dict[str, str]:
    """Write MLflow's account settings and return its variables; the first start creates the administrator."""
    database = str(place.folder / "mlflow-auth.db").replace("%", "%%")  # MLflow interpolates the file
    lines = [
        "[mlflow]",
        "default_permission = READ",  # of accounts that the administrator adds, such as a reviewer's
        f"database_uri = sqlite:///{database}",
        "auth_cache_ttl_seconds = 60",  # without it every call repeats the slow hash of the password
    ]
    path = place.folder / "mlflow-auth.ini"
    place.write_private(path, "\n".join(lines) + "\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": credentials.mlflow,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_forms,
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }


def write_client_env(place: StackPaths, environment: Mapping[str, str]) -> None:
    """Write the shell file that connects `prefect` and `mlflow` with the stack: `. client.env`."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    place.write_private(place.client_env, "\n".join(lines) + "\n")
