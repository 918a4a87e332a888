"""MLflow runs: one parent per training, one child per round. Each is searched for before it is created.

A run is identified by tags that are set in the request that creates it: after a crash it can be found
again, or it does not exist. Writing is idempotent: parameters, metrics with the round's own time stamp,
artifacts under fixed names.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedllm.tracking.privacy_record import METRIC, epsilon_of, log_budget
from fedllm.tracking.release import RoundRelease, as_table, safe_name
from fedllm.training.public_answers import ARTIFACT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRAINING = "training"
ROUND = "round"
SITES_TABLE = "sites.json"
LONGEST_PARAM = 500  # characters that every MLflow store accepts


def experiment(client: "MlflowClient", federation: str) -> str:
    """Return the id of the federation's experiment; create it if needed."""
    from mlflow.exceptions import MlflowException

    existing = client.get_experiment_by_name(federation)
    if existing is None:
        try:
            return str(client.create_experiment(federation))
        except MlflowException:
            existing = client.get_experiment_by_name(federation)  # another thread was first
            if existing is None:
                raise
    if existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    return str(existing.experiment_id)


def training(client: "MlflowClient", experiment_id: str, run: str, config: Mapping[str, Any]) -> "Run":
    """Return a training's parent run, created if needed, with the flattened configuration as parameters."""
    tags = {"fed.kind": TRAINING, "fed.run": run}
    existing = _find(client, experiment_id, tags)
    parent = existing or client.create_run(experiment_id, tags=tags, run_name=run)
    missing = {k: v for k, v in flatten(config) if k not in parent.data.params}
    if missing:
        from mlflow.entities import Param

        client.log_batch(parent.info.run_id, params=[Param(k, v) for k, v in missing.items()])
    return parent


def round_run(client: "MlflowClient", experiment_id: str, parent: "Run", release: RoundRelease) -> "Run":
    """Return a round's child run after logging its metrics, parameters and table of sites.

    The parent gets the same metrics with the round as step, which draws the training's curve.
    """
    from mlflow.entities import Metric, Param

    identity = {
        "fed.kind": ROUND,
        "fed.run": release.run,
        "fed.round": str(release.round),
        "model.sha256": release.model_sha256,
    }
    child = _find(client, experiment_id, identity) or client.create_run(
        experiment_id,
        tags={**identity, "mlflow.parentRunId": parent.info.run_id, "fed.sites": release.site_list},
        run_name=f"{release.run} round {release.round}",
    )
    # A second publication writes the same rows, which the store keeps only once.
    when = child.info.start_time  # ms since 1970
    metrics = [
        Metric(safe_name(name), value, when, release.round)
        for name, value in sorted(release.metrics.items())
        if math.isfinite(value)
    ]
    if (spent := epsilon_of(release)) is not None:
        metrics.append(Metric(METRIC, spent, when, release.round))
    child_id = child.info.run_id
    params = [Param("round", str(release.round)), Param("base", release.base_name)]
    client.log_batch(child_id, metrics=metrics, params=params)
    zero = [Metric(safe_name(name), value, when, 0) for name, value in sorted(release.baseline.items())]
    client.log_batch(parent.info.run_id, metrics=[m for m in zero if math.isfinite(m.value)] + metrics)
    if release.answers is not None:
        told = {"model": release.answers, "zero_shot": release.zero_shot_answers}
        client.log_dict(child_id, told, ARTIFACT)
    tables = _log_sites(client, child_id, release.site_rows)
    tables += log_budget(client, child_id, parent.info.run_id, release)
    if tables:
        shown = [{"path": path, "type": "table"} for path in tables]
        client.set_tag(child_id, "mlflow.loggedArtifacts", json.dumps(shown))
    return child


def _log_sites(client: "MlflowClient", run_id: str, rows: list[dict[str, Any]]) -> list[str]:
    """Write the table of sites for MLflow's UI; `log_table` would append to it on a second publication."""
    if not rows:
        return []
    client.log_dict(run_id, as_table(rows), SITES_TABLE)
    return [SITES_TABLE]


def _find(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> "Run | None":
    """Return the oldest live run that has all the tags, or None."""
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    matching = client.search_runs(
        [experiment_id], filter_string=query, max_results=1, order_by=["attributes.start_time ASC"]
    )
    return matching[0] if matching else None


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested configuration as `local.lr` → `0.001`; lists become JSON, long values are cut."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield safe_name(name), text[:LONGEST_PARAM] or "''"


def log_final(client: "MlflowClient", run_id: str, summary: Mapping[str, Any]) -> None:
    """Log a summary's numbers, top-level and below `eval`, as metrics named `final.…`."""
    from mlflow.entities import Metric

    numbers = {**summary, **_below(summary, "eval")}
    when = client.get_run(run_id).info.start_time
    metrics = [
        Metric(safe_name(f"final.{name}"), float(value), when, 0)
        for name, value in sorted(numbers.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _below(summary: Mapping[str, Any], part: str) -> dict[str, Any]:
    below = summary.get(part)
    return {f"{part}.{name}": value for name, value in below.items()} if isinstance(below, Mapping) else {}
