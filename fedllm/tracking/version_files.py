"""Check a registered version's files against its signed record before any of them is parsed."""

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.data.records import sha256_file
from fedllm.errors import ModelError, UntrustedVersionError
from fedllm.tracking.package import ADAPTER_FILES, VISION_FILES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ARTIFACTS = "artifacts"
ADAPTER = f"{ARTIFACTS}/adapter"
_COMMON = frozenset(
    {
        "MLmodel",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "served_model.py",
        "serving_input_example.json",
        f"{ARTIFACTS}/base.json",
        f"{ARTIFACTS}/task.json",
    }
)
# Every file of a version: of a language model and of an image model. There is no third kind.
PACKAGES = tuple(
    _COMMON | {f"{ADAPTER}/{name}" for name in trained} for trained in (ADAPTER_FILES, VISION_FILES)
)
_FOLDERS = frozenset({"", ARTIFACTS, ADAPTER})


def package_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 by path of a package before its upload.

    Raises:
        ModelError: the package holds an unknown file or lacks one.
    """
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    if hashes.keys() not in PACKAGES:
        wrong = min((hashes.keys() ^ package for package in PACKAGES), key=len)
        raise ModelError(f"the package of a version has unknown or missing files: {', '.join(sorted(wrong))}")
    return hashes


class StoredFiles:
    """The folder of a registered version in MLflow's artifact store, which is not trusted."""

    def __init__(self, client: "MlflowClient", tracking_uri: str, version: "ModelVersion") -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.uri = f"models:/{version.name}/{version.version}"
        # The client leaves `version.model_id` empty; the source is still models:/{model_id}.
        model_id = str(version.source).removeprefix("models:/")
        if not model_id.startswith("m-"):
            raise ModelError(f"{self.uri} was not published by fedllm: it holds no adapter")
        location = client.get_logged_model(model_id).artifact_location
        self._repository: Any = get_artifact_repository(location, tracking_uri=tracking_uri)

    def fetch(self, hashes: Mapping[str, str], folder: Path) -> None:
        """Copy a version's files into an empty `folder` and check them against its record.

        Each is written under the path in the record, not the store's, and hashed on this disk.

        Args:
            hashes: SHA-256 by path, from the signed record.
            folder: target.

        Raises:
            UntrustedVersionError: a file was changed, added or removed.
        """
        if hashes.keys() not in PACKAGES:
            raise UntrustedVersionError(f"{self.uri}: its record does not name the files of a version")
        listed = self._listed()
        if added := sorted(listed - hashes.keys()):
            raise UntrustedVersionError(f"{self.uri}: {_named(added)} was added in the artifact store")
        if missing := sorted(hashes.keys() - listed):
            raise UntrustedVersionError(f"{self.uri}: {_named(missing)} is missing in the artifact store")
        self.copy(hashes, folder)
        changed = sorted(name for name in hashes if sha256_file(folder / name) != hashes[name])
        if changed:
            raise UntrustedVersionError(
                f"{self.uri}: {_named(changed)} was changed in the artifact store: it is not the file that "
                "the coordinator signed"
            )

    def copy(self, names: Iterable[str], folder: Path) -> None:
        """Copy files by name into `folder` without checking them."""
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # The public `download_artifacts` lets the store define what is a folder and its contents.
            self._repository._download_file(name, str(target))  # noqa: SLF001

    def listed_adapter(self) -> frozenset[str]:
        """Return the allowed names below `artifacts/` in the store, for a version without a record."""
        allowed = frozenset[str]().union(*PACKAGES)
        return frozenset(name for name in self._listed() & allowed if name.startswith(f"{ARTIFACTS}/"))

    def _listed(self) -> frozenset[str]:
        """Return every file, and every folder that no version has, as listed by the store."""
        names: set[str] = set()
        for folder in sorted(_FOLDERS):
            for entry in self._repository.list_artifacts(folder or None):
                path = posixpath.normpath(str(entry.path))
                if not (entry.is_dir and path in _FOLDERS):
                    names.add(path)
        return frozenset(names)


def _named(names: list[str]) -> str:
    """Join up to three names, escaped and shortened for display."""
    shown = ", ".join(ascii(name)[1:-1][:80] for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"  # noqa: PLR2004
