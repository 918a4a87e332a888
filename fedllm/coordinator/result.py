"""What a training came to, in the JSON that others rely on: `fedllm.run/1`."""

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.outcomes import Aggregated, Audited, Dispatched, FailedRound, SiteOutcome
from fedllm.coordinator.progress import evaluations, score
from fedllm.coordinator.release import released
from fedllm.coordinator.training import Training


@dataclass(frozen=True)
class RunResult:
    """A finished training. `to_json` gives the public schema; the rest is for tables."""

    status: str
    stop_reason: str
    run_id: str
    rounds: int
    model: dict[str, str | None]  # name, version, uri, sha256: of the best round
    eval: dict[str, Any]  # the best round's metrics, `by_group` among them
    baseline: dict[str, Any]
    sites: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    by_round: dict[int, dict[str, float]]  # metrics of every round, 0 is zero-shot

    def public(self) -> dict[str, Any]:
        """The `fedllm.run/1` object."""
        told = asdict(self)
        told["by_round"] = {str(number): metrics for number, metrics in self.by_round.items()}
        return {"schema": "fedllm.run/1", **told}

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.public(), sort_keys=False)


def grouped(metrics: dict[str, float]) -> dict[str, Any]:
    """`{"accuracy": …, "accuracy/movies": …}` as `{"accuracy": …, "by_group": {"movies": {…}}}`."""
    told: dict[str, Any] = {name: value for name, value in metrics.items() if "/" not in name}
    by_group: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, slash, group = name.partition("/")
        if slash:
            by_group.setdefault(group, {})[metric] = value
    return told | {"by_group": by_group}


def result(training: Training) -> RunResult:
    """Gather what the journal knows of a training."""
    journal, run = training.journal, training.run
    measured = evaluations(training)
    played = [number for number in measured if number > 0]
    best = max(played, key=lambda number: score(measured[number]))
    version = released(training, best)
    row = journal.run(run)
    assert row is not None  # noqa: S101 - the training is on record
    times = journal.times(run)
    return RunResult(
        status=row.status,
        stop_reason=row.reason,
        run_id=run,
        rounds=len(played),
        model={
            "name": version.name,
            "version": version.version,
            "uri": version.uri,
            "sha256": journal.require(run, best, "aggregate", Aggregated).model.sha256,
        },
        eval=grouped(dict(measured[best].metrics)),
        baseline={"zero_shot": grouped(dict(measured[0].metrics))},
        sites=_sites(training, max(played)),
        seconds={
            "total": (row.finished or max(times.values())) - row.started,
            "per_round_overhead": _overhead(training, played, times),
        },
        by_round={number: dict(done.metrics) for number, done in measured.items()},
    )


def _sites(training: Training, last: int) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for number in range(1, last + 1):
        if training.journal.outcome(training.run, number, "failed", FailedRound):
            continue
        plan = read_plan(training, number)
        audited = training.journal.require(training.run, number, "dp-audit", Audited)
        accepted = {verdict.site for verdict in audited.verdicts if verdict.accepted}
        for site in training.journal.require(training.run, number, "dispatch", Dispatched).sites:
            at = told.setdefault(
                site,
                {"rounds": 0, "epsilon": None, "delta": None, "bytes_up": 0, "bytes_down": 0, "declined": 0},
            )
            step = f"remote-local-train {site}"
            did = training.journal.require(training.run, number, step, SiteOutcome)
            at["rounds"] += site in accepted
            at["bytes_up"] += did.payload.sealed_bytes if did.payload else 0
            at["bytes_down"] += plan.model.sealed_bytes
            at["declined"] += did.status == "declined"
    return told


def _overhead(training: Training, played: list[int], times: dict[tuple[int, str], float]) -> float:
    """Median seconds of a round that were neither a site's training nor the evaluation.

    A round lasts from the end of the one before to its own; rounds that followed a failed one or a
    crash count as they were.
    """
    spans = []
    for number in played:
        began = times.get((number - 1, "release")) or times.get((0, "baseline"))
        ended = times.get((number, "release"))
        if began is None or ended is None:
            continue
        plan_sites = training.journal.require(training.run, number, "dispatch", Dispatched).sites
        trained = [
            training.journal.require(training.run, number, f"remote-local-train {site}", SiteOutcome).seconds
            for site in plan_sites
        ]
        slowest = max((seconds for seconds in trained if seconds is not None), default=0.0)
        evaluating = times[(number, "evaluate")] - times[(number, "aggregate")]
        spans.append(ended - began - slowest - evaluating)
    return statistics.median(spans) if spans else 0.0
