"""Get a model to use: a registered version, a peft folder, or the bare base (`zero-shot`)."""

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.config import FederationConfig, TaskConfig
from fedllm.errors import ModelError, TrackingError
from fedllm.tracking.connection import answering, connect
from fedllm.tracking.loading import load_adapter, load_plain
from fedllm.tracking.package import check_adapter

ZERO_SHOT = "zero-shot"
_REGISTERED = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))$")


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to answer, and what it is."""

    name: str  # models:/{name}/{version}, a folder, or `zero-shot`
    learner: Any
    task: TaskConfig


@dataclass(frozen=True)
class FetchedVersion:
    """A registered version's files on this machine."""

    uri: str  # models:/{name}/{version}
    adapter: Path  # plain peft folder
    base_name: str
    base_sha256: str
    task: TaskConfig


def is_registered(wanted: str) -> bool:
    """Whether `wanted` names a registered version and so needs MLflow."""
    return wanted.startswith("models:/")


def open_model(wanted: str, config: FederationConfig, tracking_uri: str | None) -> OpenedModel:
    """Load what a user named.

    Args:
        wanted: `models:/name@alias`, `models:/name/version`, a peft folder, or `zero-shot`.
        config: names the base and the task of a folder and of the bare base; a registered version brings
            its own.
        tracking_uri: MLflow's; needed for a registered version alone.

    Raises:
        TrackingError: MLflow does not answer or has no such version.
        ModelError: the base is absent or another one, or the folder is no adapter.
    """
    if wanted == ZERO_SHOT:
        return OpenedModel(wanted, load_plain(config.model.base, config.task), config.task)
    if not is_registered(wanted):
        folder = check_adapter(wanted)
        return OpenedModel(wanted, load_adapter(config.model.base, None, folder, config.task), config.task)
    if tracking_uri is None:
        raise TrackingError(f"{wanted} is in MLflow's registry: say where that is, or run fedllm up")
    with tempfile.TemporaryDirectory(prefix="fedllm-model-") as scratch:
        version = fetch_version(tracking_uri, wanted, Path(scratch))
        learner = load_adapter(version.base_name, version.base_sha256, version.adapter, version.task)
    return OpenedModel(version.uri, learner, version.task)


def fetch_version(tracking_uri: str, wanted: str, folder: Path) -> FetchedVersion:
    """Download a version's adapter, base record and task below `folder`.

    Raises:
        TrackingError: MLflow does not answer, or there is no such version.
        ModelError: the version was not published by fedllm.
    """
    match = _REGISTERED.fullmatch(wanted)
    if match is None:
        raise TrackingError(f"{wanted!r} names no version: write models:/NAME@challenger or models:/NAME/3")
    client = connect(tracking_uri)
    from mlflow.artifacts import download_artifacts

    with answering(tracking_uri):
        name = match["name"]
        if match["alias"]:
            version = client.get_model_version_by_alias(name, match["alias"])
        else:
            version = client.get_model_version(name, match["version"])
        # The client leaves `version.model_id` empty; the source is models:/{model_id} all the same.
        model_id = str(version.source).removeprefix("models:/")
        if not model_id.startswith("m-"):
            raise ModelError(f"{wanted} was not published by fedllm: it holds no adapter")
        location = client.get_logged_model(model_id).artifact_location
        got = Path(
            download_artifacts(
                artifact_uri=f"{location}/artifacts", dst_path=str(folder), tracking_uri=tracking_uri
            )
        )
    return read_version(f"models:/{name}/{version.version}", got)


def read_version(uri: str, folder: Path) -> FetchedVersion:
    """Read the `artifacts` folder of a version.

    Raises:
        ModelError: it is not one that fedllm writes.
    """
    try:
        base = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        task = TaskConfig.model_validate_json((folder / "task.json").read_text(encoding="utf-8"))
        adapter = check_adapter(str(folder / "adapter"))
        return FetchedVersion(uri, adapter, base["name"], base["sha256"], task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{uri} was not published by fedllm: {' '.join(str(error).split())}") from None
