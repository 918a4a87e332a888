"""The files gate: whether a version's code, adapter and every other file are those that were signed."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.errors import ModelError
from fedllm.review.gate import Gate
from fedllm.tracking.version_files import StoredFiles
from fedllm.tracking.version_record import open_record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NAME = "files"
UNCHECKED = Gate(NAME, "fail", "nobody has held the version's files against its signed record")


def check_files(client: "MlflowClient", uri: str, version: "ModelVersion", pin: str | None) -> Gate:
    """Copy all files of a version, hold them against its record, and forget them; none is parsed or run.

    Args:
        client: of MLflow.
        uri: MLflow's.
        version: of the registry.
        pin: the fingerprint of the coordinator whose signature counts; None: it is not known here.
    """
    try:
        record = open_record(str(version.name), str(version.version), dict(version.tags), pin)
        with tempfile.TemporaryDirectory(prefix="fedllm-review-") as scratch:
            StoredFiles(client, uri, version).fetch(record.files, Path(scratch))
    except ModelError as error:
        return Gate(NAME, "fail", str(error))
    return Gate(NAME, "pass", f"{len(record.files)} files are those that the coordinator {pin} signed")
