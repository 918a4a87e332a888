"""The verbs `fedllm model …`: verify the signature of a version, or sign older versions."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from fedllm.cli.model import Pin, tracking_uri
from fedllm.cli.options import FEDERATION, AsJson, Config
from fedllm.cli.output import emit
from fedllm.config import load_federation
from fedllm.errors import ModelError

app = typer.Typer(no_args_is_help=True)


@app.command()
def verify(
    version: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a number.")],
    *,
    pin: Pin = None,
    into: Annotated[
        Path | None, typer.Option(help="Keep the checked files in this folder, for MLflow to load.")
    ] = None,
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """Hold every file of a version against the record that its coordinator signed; run none of them."""
    from fedllm.versions import copy_version

    federation = load_federation(config)
    wanted = f"models:/{federation.name}/{version}" if version.isdigit() else version
    address = tracking_uri(federation)
    with TemporaryDirectory(prefix="fedllm-model-") as scratch:
        copy = copy_version(wanted, into or Path(scratch), pin=pin, tracking_uri=address)
    payload: dict[str, object] = {
        "schema": "fedllm.model-verify/1",
        "model": copy.uri,
        "signed_by": copy.signed_by,
        "folder": str(into) if into else None,
    }
    kept = f"; its files are in {into}" if into else ""
    emit(as_json, payload, f"{copy.uri} is what the coordinator {copy.signed_by} signed{kept}")


@app.command()
def sign(
    version: Annotated[
        str | None, typer.Argument(help="A number: its files are put back. Default: all that need it.")
    ] = None,
    *,
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """At the coordinator: sign versions of before signatures, or of former keys, from the journal."""
    from fedllm.coordinator.sign_again import sign_versions

    federation = load_federation(config)
    done = sign_versions(federation, tracking_uri(federation), version)
    payload: dict[str, object] = {
        "schema": "fedllm.model-sign/1",
        "name": federation.name,
        "signed": done.signed,
        "valid": done.valid,
        "left": done.left,
    }
    lines = [f"signed: {', '.join(done.signed) or 'none'}; held already: {', '.join(done.valid) or 'none'}"]
    lines += [f"not signed: version {number}: {why}" for number, why in done.left.items()]
    emit(as_json, payload, "\n".join(lines))
    if version is not None and done.left:
        raise ModelError(f"version {version} of {federation.name} is not signed: {done.left[version]}")
