"""A version's files: models-from-code pyfunc, a plain peft folder or a whole image model, no pickle."""

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
_INPUTS = {  # what an example holds, by the kind's input
    "text": "An example of what to judge.",
    "image": base64.b64encode(bytes(28 * 28)).decode(),  # blank
}


def check_adapter(folder: str) -> Path:
    """The folder of what was trained.

    Raises:
        ModelError: a file of a plain peft adapter, or of an image model, is missing.
    """
    path = Path(folder)
    for name in model_files(path):
        if not (path / name).is_file():
            raise ModelError(f"{path} holds no {name}: a release needs the round's peft folder")
    return path


def model_files(folder: Path) -> tuple[str, ...]:
    """The files of a released model: a peft adapter's, or a small image model's."""
    return VISION_FILES if is_vision(folder) else ADAPTER_FILES


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
    # MLflow would refuse a list of texts and a mapping to texts for named columns. This mark leaves the
    # check to the model, whose own (`as_records`) takes both and names the column that is missing.
    signature._is_signature_from_type_hint = True  # noqa: SLF001 - no public way; without it tables still work
    return signature


def _requirements(task: TaskConfig) -> list[str]:
    """The packages of this process, so that MLflow need not load the model to find out.

    Each line can be installed on another machine: without the name of a local build, which no index has, and
    without a fedllm that was installed from a folder of this machine.
    """
    names = REQUIRED_OF_WHOLE if task.traits.whole else REQUIRED
    return [line for name in names if (line := _installable(name))]


def _installable(name: str) -> str | None:
    """A package as pip can install it elsewhere; None where only this machine has it."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # run from a source tree
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if commit := origin.get("vcs_info", {}).get("commit_id"):
        return f"{name} @ {origin['vcs_info']['vcs']}+{origin['url']}@{commit}"
    if name == "fedllm" and (found.read_text("WHEEL") is None or origin.get("url", "").startswith("file:")):
        return None  # a source tree or a folder; what conda built names a folder as well, and is on an index
    return f"{name}=={found.version.partition('+')[0]}"
