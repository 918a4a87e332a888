"""The files gate: check a version's code, adapter and all other files against its signed record."""

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
UNCHECKED = Gate(NAME, "fail", "the version's files were not checked against its signed record")


def check_files(client: "MlflowClient", uri: str, version: "ModelVersion", pin: str | None) -> Gate:
    """Download all files of a version and check them against its record; no file is parsed or run.

    Args:
        client: of MLflow.
        uri: of MLflow.
        version: in the registry.
        pin: fingerprint of the coordinator whose signature counts; None: unknown here.
    """
    try:
        record = open_record(str(version.name), str(version.version), dict(version.tags), pin)
        with tempfile.TemporaryDirectory(prefix="fedllm-review-") as scratch:
            StoredFiles(client, uri, version).fetch(record.files, Path(scratch))
    except ModelError as error:
        return Gate(NAME, "fail", str(error))
    return Gate(NAME, "pass", f"{len(record.files)} files are those that the coordinator {pin} signed")
