"""Load a model for use: a registered version, a peft folder, or the bare base (`zero-shot`)."""

import json
import logging
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedllm.config import FederationConfig, TaskConfig
from fedllm.errors import ModelError, TrackingError
from fedllm.tracking.connection import answering, connect
from fedllm.tracking.loading import as_records, load_adapter, load_plain
from fedllm.tracking.package import check_adapter
from fedllm.tracking.version_files import ARTIFACTS, StoredFiles
from fedllm.tracking.version_record import RECORD, open_record

log = logging.getLogger(__name__)

ZERO_SHOT = "zero-shot"
_REGISTERED = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))$")


@dataclass(frozen=True)
class Trust:
    """Whose signature a registered version needs before it is loaded."""

    pin: str | None  # fingerprint of the coordinator; None: unknown, so nothing is loaded
    unsigned: bool = False  # also load a version without a record, as older versions are


NOBODY = Trust(None)


@dataclass(frozen=True)
class OpenedModel:
    """A loaded model with its name and task."""

    name: str  # models:/{name}/{version}, a folder, or `zero-shot`
    learner: Any
    task: TaskConfig

    def predict(self, model_input: Any) -> list[str]:  # noqa: ANN401 - as `as_records` reads it
        """Answer every row, as the version's MLflow pyfunc does.

        Args:
            model_input: a DataFrame with the task's columns, a list of texts or of mappings, or a mapping
                from column to text or texts.

        Raises:
            ModelError: a column that the template needs is missing.
        """
        from fedllm.training.evaluate import predict

        records = as_records(model_input, self.task)
        return list(predict(self.learner, records)) if records else []


@dataclass(frozen=True)
class FetchedVersion:
    """A registered version's files on this machine."""

    uri: str  # models:/{name}/{version}
    adapter: Path  # plain peft folder
    base_name: str
    base_sha256: str
    task: TaskConfig
    signed_by: str | None = None  # fingerprint of the coordinator; None: no record


def is_registered(wanted: str) -> bool:
    """Return whether `wanted` names a registered version and so needs MLflow."""
    return wanted.startswith("models:/")


def registered_name(wanted: str) -> str:
    """Return the NAME in `models:/NAME@ALIAS` or `models:/NAME/VERSION`, which is a federation.

    Raises:
        TrackingError: the text names no version.
    """
    return _parsed(wanted)["name"]


def open_model(
    wanted: str, config: FederationConfig, tracking_uri: str | None, trust: Trust = NOBODY
) -> OpenedModel:
    """Load the model that a user named.

    Args:
        wanted: `models:/name@alias`, `models:/name/version`, a peft folder, or `zero-shot`.
        config: base and task for a folder or the bare base; a registered version holds its own.
        tracking_uri: MLflow server; needed only for a registered version.
        trust: whose signature a registered version needs.

    Raises:
        TrackingError: MLflow does not answer or has no such version.
        ModelError: the base is missing or a different one, or the folder is no adapter.
        UntrustedVersionError: the version's files are not those that its coordinator signed.
    """
    if wanted == ZERO_SHOT:
        return OpenedModel(wanted, load_plain(config.model.base, config.task), config.task)
    if not is_registered(wanted):
        if not Path(wanted).is_dir():
            raise ModelError(
                f"no folder {wanted}: name models:/NAME@ALIAS, models:/NAME/VERSION, a peft folder, or "
                f"{ZERO_SHOT}"
            )
        folder = check_adapter(wanted)
        return OpenedModel(wanted, load_adapter(config.model.base, None, folder, config.task), config.task)
    if tracking_uri is None:
        raise TrackingError(f"{wanted} is in MLflow's registry: set tracking.uri, or run fedllm up")
    return open_version(wanted, tracking_uri, trust)


def open_version(wanted: str, tracking_uri: str, trust: Trust) -> OpenedModel:
    """Load a registered version with fedllm's own code; none of the version's code runs.

    Raises:
        TrackingError, ModelError, UntrustedVersionError: as `open_model`.
    """
    with tempfile.TemporaryDirectory(prefix="fedllm-model-") as scratch:
        version = fetch_version(tracking_uri, wanted, Path(scratch), trust)
        learner = load_adapter(version.base_name, version.base_sha256, version.adapter, version.task)
    return OpenedModel(version.uri, learner, version.task)


def fetch_version(tracking_uri: str, wanted: str, folder: Path, trust: Trust) -> FetchedVersion:
    """Copy a version's files into an empty `folder` and check them against its signed record.

    With `trust.unsigned`, a version without a record is copied too: only its adapter, base record and task,
    unchecked.

    Raises:
        TrackingError: MLflow does not answer, or there is no such version.
        ModelError: the version was not published by fedllm.
        UntrustedVersionError: its files are not those that its coordinator signed; none was parsed.
    """
    match = _parsed(wanted)
    client = connect(tracking_uri)
    with answering(tracking_uri):
        name = match["name"]
        if match["alias"]:
            version = client.get_model_version_by_alias(name, match["alias"])
        else:
            version = client.get_model_version(name, match["version"])
        uri, tags = f"models:/{name}/{version.version}", dict(version.tags)
        if trust.unsigned and RECORD not in tags:
            log.warning("%s has no signed record: nobody vouches for its adapter", uri)
            stored = StoredFiles(client, tracking_uri, version)
            stored.copy(stored.listed_adapter(), folder)
            signed_by = None
        else:
            record = open_record(name, str(version.version), tags, trust.pin)
            StoredFiles(client, tracking_uri, version).fetch(record.files, folder)
            signed_by = trust.pin
    return replace(read_version(uri, folder / ARTIFACTS), signed_by=signed_by)


def _parsed(wanted: str) -> "re.Match[str]":
    match = _REGISTERED.fullmatch(wanted)
    if match is None:
        raise TrackingError(f"{wanted!r} names no version: write models:/NAME@challenger or models:/NAME/3")
    return match


def read_version(uri: str, folder: Path) -> FetchedVersion:
    """Read the `artifacts` folder of a version.

    Raises:
        ModelError: fedllm did not write the folder.
    """
    try:
        base = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        task = TaskConfig.model_validate_json((folder / "task.json").read_text(encoding="utf-8"))
        adapter = check_adapter(str(folder / "adapter"))
        return FetchedVersion(uri, adapter, base["name"], base["sha256"], task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{uri} was not published by fedllm: {' '.join(str(error).split())}") from None
