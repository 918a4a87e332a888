"""Write a version's files: models-from-code pyfunc, a peft folder or a whole image model, no pickle."""

import base64
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.config import TaskConfig
from fedllm.errors import ModelError
from fedllm.models.folder import is_vision
from fedllm.tracking.loading import input_columns
from fedllm.tracking.release import RoundRelease

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # peft's
VISION_FILES = ("config.json", "model.safetensors")  # of a small model that is shared whole
REQUIRED = ("fedllm", "mlflow", "torch", "transformers", "peft", "safetensors")
REQUIRED_OF_WHOLE = ("fedllm", "mlflow", "torch", "safetensors", "kymatio", "scipy")
_INPUTS = {  # content of the input example, by the task kind's input
    "text": "An example input.",
    "image": base64.b64encode(bytes(28 * 28)).decode(),  # blank
}


def check_adapter(folder: str) -> Path:
    """Return the path of an adapter folder after checking that it is complete.

    Raises:
        ModelError: a file of a plain peft adapter, or of an image model, is missing.
    """
    path = Path(folder)
    for name in model_files(path):
        if not (path / name).is_file():
            raise ModelError(f"{path} holds no {name}: a release needs the round's peft folder")
    return path


def model_files(folder: Path) -> tuple[str, ...]:
    """Return the file names of a released model: a peft adapter's or a small image model's."""
    return VISION_FILES if is_vision(folder) else ADAPTER_FILES


def save_package(release: RoundRelease, logged: "LoggedModel", run_id: str, folder: Path) -> None:
    """Write the version's files into `folder`, which must not exist. Load no weights.

    Args:
        release: the round.
        logged: the MLflow model that the files will be uploaded to.
        run_id: the round's MLflow run.
        folder: target; its sibling `parts` is created as a temporary folder.

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
    # Only the two files that loading needs: peft's README names folders of this machine.
    plain = parts / "adapter"
    plain.mkdir()
    for name in model_files(adapter):
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
        input_example=dict.fromkeys(input_columns(task).values(), _INPUTS[task.traits.input]),
        pip_requirements=_requirements(task),
        metadata={
            "base": base,
            "model_sha256": release.model_sha256,
            "run": release.run,
            "round": release.round,
            "fedllm": importlib.metadata.version("fedllm"),  # requirements.txt may have no line for it
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
    # MLflow would refuse a list of texts and a mapping to texts for named columns. This flag leaves the
    # check to the model: `as_records` accepts both and names a missing column.
    signature._is_signature_from_type_hint = True  # noqa: SLF001 - no public way; without it tables still work
    return signature


def _requirements(task: TaskConfig) -> list[str]:
    """Return pip requirements with this process's versions; otherwise MLflow loads the model to infer them.

    Each line installs on another machine: local build tags, which no index has, are removed, and a fedllm
    that was installed from a local folder is left out.
    """
    names = REQUIRED_OF_WHOLE if task.traits.whole else REQUIRED
    return [line for name in names if (line := _installable(name))]


def _installable(name: str) -> str | None:
    """Return a package's pip requirement; None if only this machine has the package."""
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a source tree
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return f"{name} @ {origin['vcs_info']['vcs']}+{origin['url']}@{commit}"
    if name == "fedllm" and (package.read_text("WHEEL") is None or origin.get("url", "").startswith("file:")):
        return None  # a source tree or a folder; a conda build names a folder too but is on an index
    return f"{name}=={package.version.partition('+')[0]}"
