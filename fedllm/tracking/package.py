"""A version's files: models-from-code pyfunc, adapter as a plain peft folder, no pickle."""

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.config import TaskConfig
from fedllm.errors import ModelError
from fedllm.tracking.loading import input_columns
from fedllm.tracking.release import RoundRelease

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
REQUIRED = ("fedllm", "mlflow", "torch", "transformers", "peft", "safetensors")


def check_adapter(folder: str) -> Path:
    """The adapter's folder.

    Raises:
        ModelError: a file of a plain peft adapter is missing.
    """
    path = Path(folder)
    for name in ADAPTER_FILES:
        if not (path / name).is_file():
            raise ModelError(f"{path} holds no {name}: a release needs the round's peft folder")
    return path


def save_package(release: RoundRelease, logged: "LoggedModel", run_id: str, folder: Path) -> None:
    """Write the version's files into `folder`, which must not exist. Loads no weights.

    Args:
        release: the round.
        logged: the MLflow model that the files will be uploaded to.
        run_id: the round's MLflow run.
        folder: where to; a sibling `parts` is used on the way.

    Raises:
        ModelError: the adapter folder is incomplete.
    """
    import mlflow

    adapter = check_adapter(release.adapter_folder)
    parts = folder.parent / "parts"
    parts.mkdir()
    base = {"name": release.base_name, "sha256": release.base_sha256}
    (parts / "base.json").write_text(json.dumps(base, sort_keys=True), encoding="utf-8")
    (parts / "task.json").write_text(json.dumps(release.task, sort_keys=True), encoding="utf-8")
    # Only the two files that load: peft also writes a README that names folders of this machine.
    plain = parts / "adapter"
    plain.mkdir()
    for name in ADAPTER_FILES:
        (plain / name).write_bytes((adapter / name).read_bytes())
    task = TaskConfig.model_validate(release.task)
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={
            "adapter": str(plain),
            "base": str(parts / "base.json"),
            "task": str(parts / "task.json"),
        },
        signature=_signature(task),
        input_example=dict.fromkeys(input_columns(task).values(), "An example of what to judge."),
        pip_requirements=_requirements(),
        metadata={
            "base": base,
            "model_sha256": release.model_sha256,
            "run": release.run,
            "round": release.round,
        },
        mlflow_model=mlflow.models.Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run_id,
            model_id=logged.model_id,
        ),
    )
    for cache in folder.rglob("__pycache__"):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()


def _signature(task: TaskConfig) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("string", column) for column in input_columns(task).values()])
    signature = ModelSignature(inputs=inputs, outputs=Schema([ColSpec("string")]))
    # MLflow would refuse a list of texts and a mapping to texts for named columns. This mark leaves the
    # check to the model, whose own (`as_records`) takes both and names the column that is missing.
    signature._is_signature_from_type_hint = True  # noqa: SLF001 - no public way; without it tables still work
    return signature


def _requirements() -> list[str]:
    """The packages of this process, so that MLflow need not load the model to find out."""
    pinned = []
    for name in REQUIRED:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pinned.append(name)  # run from a source tree
        else:
            pinned.append(f"{name}=={version.partition('+')[0]}")  # a local build's name is not on an index
    return pinned
