"""A training's result, and its public JSON, `fedllm.run/1`."""

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.progress import evaluations, score
from fedllm.coordinator.release import released
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import (
    Aggregated,
    Audited,
    Dispatched,
    Evaluated,
    FailedRound,
    SiteOutcome,
)
from fedllm.journal.runs import find_run
from fedllm.privacy.accounting import ACCOUNTANT
from fedllm.protocol.terms import NO_DP, TRUST, told_in_words
from fedllm.tasks.metrics import METRICS


@dataclass(frozen=True)
class RunResult:
    """A finished training. `to_json` returns the public schema; the fields also serve tables."""

    status: str
    stop_reason: str
    run_id: str
    rounds: int
    model: dict[str, str | None]  # name, version, uri, sha256: of the best round
    eval: dict[str, Any]  # the best round's metrics, including `by_group`
    baseline: dict[str, Any]
    sites: dict[str, dict[str, Any]]
    seconds: dict[str, float | None]  # None under DP: sites keep their times private, also within a sum
    by_round: dict[int, dict[str, float]]  # metrics of every round; 0 is zero-shot
    privacy: dict[str, Any]  # the privacy claim; `words` is its one-line form
    metric: str | None = None  # the main one; None: the task's own, and absent from the JSON

    def public(self) -> dict[str, Any]:
        """Return the `fedllm.run/1` object."""
        fields = asdict(self)
        fields["by_round"] = {str(number): metrics for number, metrics in self.by_round.items()}
        if self.metric is None:
            del fields["metric"]
        return {"schema": "fedllm.run/1", **fields}

    def to_json(self) -> str:
        """Return the `fedllm.run/1` object as one line of JSON."""
        return json.dumps(self.public(), sort_keys=False)


def grouped(metrics: dict[str, float]) -> dict[str, Any]:
    """Turn `{"loss": …, "loss/movies": …}` into `{"loss": …, "by_group": {"movies": {…}}}`."""
    overall: dict[str, Any] = {name: value for name, value in metrics.items() if "/" not in name}
    by_group: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, slash, group = name.partition("/")
        if slash:
            by_group.setdefault(group, {})[metric] = value
    return overall | {"by_group": by_group}


def result(training: Training) -> RunResult:
    """Build the result of a training from its journal."""
    journal, run = training.journal, training.run
    measured = evaluations(training)
    played = [number for number in measured if number > 0]
    sites = _sites(training, max(played))
    best = max(played, key=lambda number: score(measured[number]))
    version = released(training, best)
    row = find_run(journal, run)
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
        eval=grouped(dict(measured[best].metrics)) | _precision(measured[best]),
        baseline={"zero_shot": grouped(dict(measured[0].metrics))},
        sites=sites,
        seconds={
            "total": None
            if training.config.privacy.on
            else max(times.values()) - row.started,  # not until now: the run may have ended long ago
            "per_round_overhead": _overhead(training, played, times),
        },
        by_round={number: dict(done.metrics) for number, done in measured.items()},
        privacy=_claim(training, sites),
        metric=measured[best].metric,
    )


def _precision(evaluated: Evaluated) -> dict[str, Any]:
    """Return the number of records, and the 95 % confidence interval of each metric that has one."""
    precision: dict[str, Any] = {"records": evaluated.records}
    for name, value in evaluated.metrics.items():
        metric = METRICS.get(name)  # None: of a group
        if metric and (interval := metric.interval(value, evaluated.records, evaluated.answers)):
            precision[f"{name}_interval"] = list(interval)
    return precision


def _claim(training: Training, sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the privacy claim of a training: the largest epsilon of its sites, and the terms."""
    plan = privacy_plan(training)
    if plan is None:
        return {"unit": "none", "epsilon": None, "words": NO_DP}
    spent = max((row["epsilon"] for row in sites.values() if row["epsilon"] is not None), default=None)
    return {
        "unit": plan.unit,
        "epsilon": spent,
        "delta": plan.delta,
        "budget": plan.epsilon,
        "adjacency": plan.adjacency,
        "trust_model": TRUST[plan.unit],
        "accountant": ACCOUNTANT,
        "words": told_in_words(plan, spent),
    }


def _sites(training: Training, last: int) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number in range(1, last + 1):
        if training.journal.outcome(training.run, number, "failed", FailedRound):
            continue
        plan = read_plan(training, number)
        audited = training.journal.require(training.run, number, "dp-audit", Audited)
        verdicts = {verdict.site: verdict for verdict in audited.verdicts}
        for site in training.journal.require(training.run, number, "dispatch", Dispatched).sites:
            row = rows.setdefault(
                site,
                {"rounds": 0, "epsilon": None, "delta": None, "bytes_up": 0, "bytes_down": 0, "declined": 0},
            )
            step = f"remote-local-train {site}"
            outcome = training.journal.require(training.run, number, step, SiteOutcome)
            verdict = verdicts[site]
            row["rounds"] += verdict.accepted
            if plan.privacy is not None and verdict.epsilon is not None:
                row["epsilon"], row["delta"] = verdict.epsilon, plan.privacy.delta
            row["bytes_up"] += outcome.payload.sealed_bytes if outcome.payload else 0
            row["bytes_down"] += plan.model.sealed_bytes
            row["declined"] += outcome.status == "declined"
    return rows


def _overhead(training: Training, played: list[int], times: dict[tuple[int, str], float]) -> float | None:
    """Return the median seconds per round outside the slowest site's training and the evaluation.

    A round lasts from the end of the previous round to its own end; rounds after a failed round or a crash
    count unchanged. The first round also evaluates the base model, so it counts only if it is the only one,
    and then from its plan on.
    """
    if training.config.privacy.on:
        return None
    spans = []
    for number in played[1:] or played:
        began = times.get((number - 1, "release")) or times.get((number, "dispatch"))
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
