"""`fedllm up`, `fedllm down`, `fedllm ca`: the servers of this machine."""

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
    from fedllm.endpoints.place import Place
    from fedllm.stack import up as start

    begun = time.monotonic()
    asked = {"door": door_port, "minio": minio_port, "prefect": prefect_port, "mlflow": mlflow_port}
    already, restored = endpoints() is not None, Place.here().restored.exists()
    chosen = _config_to_deploy(config) if deployments else None
    found = start(
        ports={name: port for name, port in asked.items() if port is not None},
        config=chosen,
        secure=secure,
        open_to_all=open_to_all,
        progress=partial(console().print, markup=False, soft_wrap=True),
    )
    seconds = time.monotonic() - begun
    command = f"{client(found)} prefect deployment run federated-training/{_federation(chosen)}"
    payload: dict[str, object] = {
        "schema": "fedllm.up/1",
        "status": "already up" if already else "up",
        "minio_url": found.minio_url,
        "door_url": found.door_url,
        "prefect_api_url": found.prefect_api_url,
        "prefect_ui_url": found.prefect_ui_url,
        "mlflow_url": found.mlflow_url,
        "home": str(found.home),
        "secure": found.ca_file is not None,
        "open": found.passwords is None,
        "ca_file": str(found.ca_file) if found.ca_file else None,
        "client_env": str(Place(found.home).client_env),
        "run_command": command if chosen else None,
        "paused_after_restore": restored,
        "seconds": round(seconds, 2),
    }
    lines = [
        "already up" if already else f"up after {seconds:.0f} s",
        *_pages(found),
        f"  MinIO    {found.minio_url}   for fedllm and MLflow; it has no page",
        f"  door     {found.door_url}   where sites come in",
    ]
    if found.ca_file:
        lines.append(f"  CA       {found.ca_file}: a browser that is to trust these pages needs it")
    lines.append(f"  shell    {_entered(found)}, then `prefect`, `mlflow` and Python know all that")
    if chosen:
        lines += ["Start a training from any Prefect client:", f"  {command}"]
    emit(as_json, payload, "\n".join(lines))


def _pages(found: "Endpoints") -> list[str]:
    """A line for each server that has a page: where it is, and how to log in.

    Passwords are for a terminal: what goes into a file or a journal names the file that has them.
    """
    from fedllm.endpoints.passwords import USER
    from fedllm.endpoints.place import Place

    if found.passwords is None:
        prefect = mlflow = "open to every account of this machine"
    elif sys.stdout.isatty():
        prefect = f"password {found.passwords.prefect_auth}"
        mlflow = f"user {USER}, password {found.passwords.mlflow}"
    else:
        file = Place(found.home).client_env
        prefect = f"password: PREFECT_API_AUTH_STRING in {file}"
        mlflow = f"user {USER}, password: MLFLOW_TRACKING_PASSWORD in {file}"
    if not found.own_prefect:
        prefect = "your own"
    return [f"  Prefect  {found.prefect_ui_url}   {prefect}", f"  MLflow   {found.mlflow_url}   {mlflow}"]


def client(found: "Endpoints") -> str:
    """What a shell needs before a Prefect command: an address, or a file with the secrets as well."""
    if found.passwords is None or not found.own_prefect:
        return f"PREFECT_API_URL={found.prefect_api_url}"
    return f"{_entered(found)};"


def _entered(found: "Endpoints") -> str:
    """The command by which a shell knows addresses and passwords."""
    from fedllm.endpoints.place import Place

    return f". {shlex.quote(str(Place(found.home).client_env))}"


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
    from fedllm.endpoints.place import Place
    from fedllm.secure.ca import ca_fingerprint, server_certificate, validity

    place = Place.here()
    with place.usable():
        place.create()
    with place.usable(), place.lock():
        files = server_certificate(place.ca, host or ())
    found = validity(files.certificate)
    payload: dict[str, object] = {
        "schema": "fedllm.ca/1",
        "status": "ready",
        "ca_file": str(files.ca),
        "ca_sha256": ca_fingerprint(files.ca),
        "ca_ends": validity(files.ca).ends.isoformat(),
        "certificate": str(files.certificate),
        "key_file": str(files.key),
        "hosts": list(found.hosts),
        "ends": found.ends.isoformat(),
    }
    lines = [
        f"CA           {files.ca}, SHA-256 {payload['ca_sha256']}",
        f"certificate  {files.certificate}, until {found.ends:%Y-%m-%d}, for {', '.join(found.hosts)}",
    ]
    here = endpoints()
    if here is not None and here.ca_file is not None and host:
        lines.append("the running servers show it after `fedllm down` and `fedllm up`")
    emit(as_json, payload, "\n".join(lines))


def _federation(config: Path | None) -> str:
    """The name by which the deployments of a file go; nothing where none is deployed."""
    from fedllm.config import load_federation

    return load_federation(config).name if config else ""


def _config_to_deploy(config: Path) -> Path | None:
    """The file to deploy for. The default one may be absent or simulate what is real; a named one may not."""
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
