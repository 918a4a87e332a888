"""The verbs `fedllm up`, `fedllm down` and `fedllm ca`: the servers of this machine."""

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson
from fedllm.cli.output import console, emit
from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.endpoints import Endpoints

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the usual port, or a free one.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(up)
    app.command()(ca)
    app.command()(down)


def up(
    *,
    config: Annotated[
        Path, typer.Option(help="Federation file that the deployments read.", show_default=True)
    ] = FEDERATION,
    deployments: Annotated[
        bool, typer.Option("--deploy/--no-deploy", help="Register infra/prefect.yaml as well.")
    ] = True,
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure/--no-secure",
            help="TLS by a private CA, beside the passwords. Default: as last time.",
        ),
    ] = None,
    open_to_all: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="No passwords for Prefect and MLflow, for every account of this machine. "
            "Default: as last time.",
        ),
    ] = None,
    door_port: Port = None,
    minio_port: Port = None,
    prefect_port: Port = None,
    mlflow_port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Start MinIO, Prefect with its UI, a worker and MLflow on this machine; nothing but loopback listens.

    Prefect and MLflow ask for passwords, which a terminal is shown and a file of yours alone keeps.
    """
    from fedllm.endpoints import endpoints
    from fedllm.endpoints.stack_paths import StackPaths
    from fedllm.stack import up as start

    begun = time.monotonic()
    ports = {"door": door_port, "minio": minio_port, "prefect": prefect_port, "mlflow": mlflow_port}
    already, restored = endpoints() is not None, StackPaths.here().restored.exists()
    chosen = _config_to_deploy(config) if deployments else None
    servers = start(
        ports={name: port for name, port in ports.items() if port is not None},
        config=chosen,
        secure=secure,
        open_to_all=open_to_all,
        progress=partial(console().print, markup=False, soft_wrap=True),
    )
    seconds = time.monotonic() - begun
    command = f"{client(servers)} prefect deployment run federated-training/{_federation(chosen)}"
    payload: dict[str, object] = {
        "schema": "fedllm.up/1",
        "status": "already up" if already else "up",
        "minio_url": servers.minio_url,
        "door_url": servers.door_url,
        "prefect_api_url": servers.prefect_api_url,
        "prefect_ui_url": servers.prefect_ui_url,
        "mlflow_url": servers.mlflow_url,
        "home": str(servers.home),
        "secure": servers.ca_file is not None,
        "open": servers.passwords is None,
        "ca_file": str(servers.ca_file) if servers.ca_file else None,
        "client_env": str(StackPaths(servers.home).client_env),
        "run_command": command if chosen else None,
        "paused_after_restore": restored,
        "seconds": round(seconds, 2),
    }
    lines = [
        "already up" if already else f"up after {seconds:.0f} s",
        *_pages(servers),
        f"  MinIO    {servers.minio_url}   for fedllm and MLflow; it has no page",
        f"  door     {servers.door_url}   where sites come in",
    ]
    if servers.ca_file:
        lines.append(f"  CA       {servers.ca_file}: a browser that is to trust these pages needs it")
    lines.append(f"  shell    {_entered(servers)}, then `prefect`, `mlflow` and Python know all that")
    if chosen:
        lines += ["Start a training from any Prefect client:", f"  {command}"]
    emit(as_json, payload, "\n".join(lines))


def _pages(servers: "Endpoints") -> list[str]:
    """Return one line for each server with a web page: its address, and how to log in.

    Passwords are shown in a terminal only; other output names the file that holds them.
    """
    from fedllm.endpoints.passwords import USER
    from fedllm.endpoints.stack_paths import StackPaths

    if servers.passwords is None:
        prefect = mlflow = "open to every account of this machine"
    elif sys.stdout.isatty():
        prefect = f"password {servers.passwords.prefect_auth}"
        mlflow = f"user {USER}, password {servers.passwords.mlflow}"
    else:
        file = StackPaths(servers.home).client_env
        prefect = f"password: PREFECT_API_AUTH_STRING in {file}"
        mlflow = f"user {USER}, password: MLFLOW_TRACKING_PASSWORD in {file}"
    if not servers.own_prefect:
        prefect = "your own"
    return [f"  Prefect  {servers.prefect_ui_url}   {prefect}", f"  MLflow   {servers.mlflow_url}   {mlflow}"]


def client(servers: "Endpoints") -> str:
    """Return the prefix of a Prefect command that sets the address, or also the secrets from a file."""
    if servers.passwords is None or not servers.own_prefect:
        return f"PREFECT_API_URL={servers.prefect_api_url}"
    return f"{_entered(servers)};"


def _entered(servers: "Endpoints") -> str:
    """Return the command that sets addresses and passwords in a shell."""
    from fedllm.endpoints.stack_paths import StackPaths

    return f". {shlex.quote(str(StackPaths(servers.home).client_env))}"


def ca(
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or address of this machine's servers; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the private CA and the certificate of this machine's servers; what is there already is kept."""
    from fedllm.endpoints import endpoints
    from fedllm.endpoints.stack_paths import StackPaths
    from fedllm.secure.ca import ca_fingerprint, server_certificate, validity

    place = StackPaths.here()
    with place.usable():
        place.create()
    with place.usable(), place.lock():
        files = server_certificate(place.ca, host or ())
    valid = validity(files.certificate)
    payload: dict[str, object] = {
        "schema": "fedllm.ca/1",
        "status": "ready",
        "ca_file": str(files.ca),
        "ca_sha256": ca_fingerprint(files.ca),
        "ca_ends": validity(files.ca).ends.isoformat(),
        "certificate": str(files.certificate),
        "key_file": str(files.key),
        "hosts": list(valid.hosts),
        "ends": valid.ends.isoformat(),
    }
    lines = [
        f"CA           {files.ca}, SHA-256 {payload['ca_sha256']}",
        f"certificate  {files.certificate}, until {valid.ends:%Y-%m-%d}, for {', '.join(valid.hosts)}",
    ]
    servers = endpoints()
    if servers is not None and servers.ca_file is not None and host:
        lines.append("the running servers show it after `fedllm down` and `fedllm up`")
    emit(as_json, payload, "\n".join(lines))


def _federation(config: Path | None) -> str:
    """Return the federation's name, which its deployments have; empty without a file."""
    from fedllm.config import load_federation

    return load_federation(config).name if config else ""


def _config_to_deploy(config: Path) -> Path | None:
    """Return the file to deploy; None if the default file is absent or simulates sites that are real.

    Raises `ConfigError` for any other such file.
    """
    from fedllm.config import load_federation
    from fedllm.coordinator.origin import refuse_simulation

    if config.is_file():
        federation = load_federation(config)
        try:
            refuse_simulation(federation)
        except ConfigError as error:
            if config != FEDERATION:
                raise
            console().print(f"nothing is deployed: {error}", markup=False, soft_wrap=True)
            return None
        return config
    if config != FEDERATION:
        raise ConfigError(f"{config}: no such file")
    console().print("no params.yaml here, so nothing is deployed; later: `fedllm deploy --config FILE`")
    return None


def down(*, as_json: AsJson = False) -> None:
    """Stop every server of this machine's stack; runs, models and buckets stay."""
    from fedllm.stack import down as stop

    ran = stop()
    status = "down" if ran else "was not up"
    emit(as_json, {"schema": "fedllm.down/1", "status": status}, status)
