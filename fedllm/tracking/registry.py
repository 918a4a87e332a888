"""The registry: one version per round's model, its tags, and the alias of the best."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.errors import ReviewError, UntrustedVersionError
from fedllm.secure.identity import Identity, fingerprint
from fedllm.tasks.metrics import main_metric
from fedllm.tracking.card import render
from fedllm.tracking.package import save_package
from fedllm.tracking.release import NO_DP, RoundRelease, safe_name
from fedllm.tracking.version_files import package_hashes
from fedllm.tracking.version_record import RECORD, VersionRecord, open_record, sign_record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS = "previous"  # the previous champion
EVAL = "eval."
BASELINE = "eval_baseline."
METRIC = "public.metric"  # the main metric; absent if it is the task's own


def version_tags(release: RoundRelease) -> dict[str, str]:
    """Return the tags that reviewers filter by; MLflow returns no metrics or parameters of a version."""
    tags = {
        "fed.run": release.run,
        "fed.round": str(release.round),
        "fed.sites": release.site_list,
        "base.model": release.base_name,
        "base.sha256": release.base_sha256,
        "model.sha256": release.model_sha256,
        "prefect.flow_run": release.prefect_flow_run or "none",
        "data.dvc_lock_sha256": release.dvc_lock_sha256 or "not tracked",
    }
    tags |= {f"{EVAL}{safe_name(name)}": repr(float(value)) for name, value in release.metrics.items()}
    tags |= {f"{BASELINE}{safe_name(name)}": repr(float(value)) for name, value in release.baseline.items()}
    if release.answers is not None:
        tags["public.sha256"] = str(release.answers["public_sha256"])
        tags["public.records"] = str(release.answers["records"])
    if release.metric is not None:
        tags[METRIC] = release.metric
    return tags | (release.privacy or NO_DP)


def ensure_model(client: "MlflowClient", name: str) -> None:
    """Create the registered model if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="Global adapters of one federation, one version per round."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def versions(client: "MlflowClient", name: str, wanted: str = "") -> "Iterator[ModelVersion]":
    """Yield all versions of a model over all pages; `wanted` extends MLflow's filter."""
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'{wanted}", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def registered(client: "MlflowClient", name: str, version: str) -> "ModelVersion":
    """Return a version of the registry.

    Raises:
        ReviewError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise ReviewError(f"{name} has no version {version} in MLflow") from None
        raise


def find_version(client: "MlflowClient", release: RoundRelease, run_id: str) -> "ModelVersion | None":
    """Return the oldest version that holds this round's model, or None."""
    matching = [
        version
        for version in versions(client, release.federation, f" and run_id = '{run_id}'")
        if version.tags.get("model.sha256") == release.model_sha256
    ]
    return min(matching, key=lambda version: int(version.version), default=None)


def uploaded_model(
    client: "MlflowClient", experiment_id: str, release: RoundRelease, run_id: str
) -> "tuple[LoggedModel, dict[str, str]]":
    """Upload the round's MLflow model with all its files, also after an interrupted upload.

    Returns:
        The model, and the SHA-256 of each file as hashed on this disk, not by the store.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    query = f"source_run_id = '{run_id}' and tags.`model.sha256` = '{release.model_sha256}'"
    existing = client.search_logged_models([experiment_id], filter_string=query, max_results=1)
    logged = (
        existing[0]
        if existing
        else client.create_logged_model(
            experiment_id,
            name=f"{release.federation}-{release.run}-{release.round}",
            source_run_id=run_id,
            tags={"model.sha256": release.model_sha256, "fed.run": release.run},
            model_type="adapter",
        )
    )
    with tempfile.TemporaryDirectory(prefix="fedllm-release-") as scratch:
        folder = Path(scratch) / "model"
        save_package(release, logged, run_id, folder)
        hashes = package_hashes(folder)
        client.log_model_artifacts(logged.model_id, str(folder))
    if logged.status != LoggedModelStatus.READY:
        logged = client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs
    if logged.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=release.round)])
    return logged, hashes


def is_signed(version: "ModelVersion", signer: Identity) -> bool:
    """Return whether a version has a record that verifies with exactly these keys."""
    try:
        open_record(str(version.name), str(version.version), dict(version.tags), fingerprint(signer.public))
    except UntrustedVersionError:
        return False
    return True


def sign_version(
    client: "MlflowClient",
    release: RoundRelease,
    number: str,
    hashes: Mapping[str, str],
    signer: Identity,
) -> None:
    """Sign a version's record after registration: the record contains the version's number."""
    record = VersionRecord(
        federation=release.federation,
        version=number,
        run=release.run,
        round=release.round,
        model_sha256=release.model_sha256,
        files=dict(sorted(hashes.items())),
    )
    client.set_model_version_tag(release.federation, number, RECORD, sign_record(record, signer))


def create_version(
    client: "MlflowClient", release: RoundRelease, logged: "LoggedModel", run_id: str
) -> "ModelVersion":
    """Register the model with its tags and card, in one request."""
    return client.create_model_version(
        release.federation,
        source=logged.model_uri,
        run_id=run_id,
        model_id=logged.model_id,
        tags=version_tags(release),
        description=render(release, f"models:/{release.federation}@{CHALLENGER}"),
    )


def best_version(found: "Iterable[ModelVersion]") -> "ModelVersion | None":
    """Return the best version by its main metric, the first if several are equal."""
    scored = [(score, version) for version in found if (score := _score(version.tags)) is not None]
    return max(scored, key=lambda pair: (pair[0], -int(pair[1].version)))[1] if scored else None


def numbers(tags: Mapping[str, str], prefix: str) -> dict[str, float]:
    """Return the metrics among a version's tags; skip values that are not finite numbers."""
    metrics = {}
    for name, value in tags.items():
        with suppress(ValueError):
            if name.startswith(prefix) and math.isfinite(number := float(value)):
                metrics[name.removeprefix(prefix)] = number
    return metrics


def _score(tags: Mapping[str, str]) -> float | None:
    """Return a version's score (higher is better); None if its main metric was not measured."""
    metrics = numbers(tags, EVAL)
    metric = main_metric(metrics, tags.get(METRIC))
    value = metrics.get(metric.name)
    return None if value is None else metric.score(value)
