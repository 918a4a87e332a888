"""Get a model to use: a registered version, a peft folder, or the bare base (`zero-shot`)."""

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
    """Whose signature makes a registered version fit to be loaded."""

    pin: str | None  # fingerprint of the coordinator; None: it is not known here, and nothing is loaded
    unsigned: bool = False  # also load a version that has no record, as versions of before have none


NOBODY = Trust(None)


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to answer, and what it is."""

    name: str  # models:/{name}/{version}, a folder, or `zero-shot`
    learner: Any
    task: TaskConfig

    def predict(self, model_input: Any) -> list[str]:  # noqa: ANN401 - as `as_records` reads it
        """Answer every row, as MLflow's pyfunc of the version does.

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
    signed_by: str | None = None  # fingerprint of the coordinator; None: it has no record


def is_registered(wanted: str) -> bool:
    """Whether `wanted` names a registered version and so needs MLflow."""
    return wanted.startswith("models:/")


def registered_name(wanted: str) -> str:
    """The registered model that `models:/NAME@ALIAS` or `models:/NAME/VERSION` names: a federation.

    Raises:
        TrackingError: it names no version.
    """
    return _parsed(wanted)["name"]


def open_model(
    wanted: str, config: FederationConfig, tracking_uri: str | None, trust: Trust = NOBODY
) -> OpenedModel:
    """Load what a user named.

    Args:
        wanted: `models:/name@alias`, `models:/name/version`, a peft folder, or `zero-shot`.
        config: names the base and the task of a folder and of the bare base; a registered version brings
            its own.
        tracking_uri: MLflow's; needed for a registered version alone.
        trust: whose signature a registered version needs.

    Raises:
        TrackingError: MLflow does not answer or has no such version.
        ModelError: the base is absent or another one, or the folder is no adapter.
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
        raise TrackingError(f"{wanted} is in MLflow's registry: say where that is, or run fedllm up")
    return open_version(wanted, tracking_uri, trust)


def open_version(wanted: str, tracking_uri: str, trust: Trust) -> OpenedModel:
    """Load a registered version by fedllm's own code; none of the version's code runs.

    Raises:
        TrackingError, ModelError, UntrustedVersionError: as `open_model`.
    """
    with tempfile.TemporaryDirectory(prefix="fedllm-model-") as scratch:
        version = fetch_version(tracking_uri, wanted, Path(scratch), trust)
        learner = load_adapter(version.base_name, version.base_sha256, version.adapter, version.task)
    return OpenedModel(version.uri, learner, version.task)


def fetch_version(tracking_uri: str, wanted: str, folder: Path, trust: Trust) -> FetchedVersion:
    """Copy a version's files into an empty `folder`, once its signed record and every hash in it hold.

    A version without a record is copied where `trust.unsigned` allows it: adapter, base record and task
    alone, unchecked.

    Raises:
        TrackingError: MLflow does not answer, or there is no such version.
        ModelError: the version was not published by fedllm.
        UntrustedVersionError: its files are not those that its coordinator signed; nothing was read of them.
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
        ModelError: it is not one that fedllm writes.
    """
    try:
        base = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        task = TaskConfig.model_validate_json((folder / "task.json").read_text(encoding="utf-8"))
        adapter = check_adapter(str(folder / "adapter"))
        return FetchedVersion(uri, adapter, base["name"], base["sha256"], task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{uri} was not published by fedllm: {' '.join(str(error).split())}") from None
