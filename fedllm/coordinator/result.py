"""A training's result, and its public JSON, `fedllm.run/1`."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedllm.coordinator.release import released
from fedllm.coordinator.training import Training
from fedllm.journal.facts import WAIT, Quality, TrainingFacts
from fedllm.journal.outcomes import Dispatched, SiteOutcome
from fedllm.journal.training_facts import training_facts
from fedllm.privacy.accounting import ACCOUNTANT
from fedllm.protocol.terms import NO_DP, TRUST, PrivacyPlan, told_in_words
from fedllm.report.site_totals import site_totals
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


def grouped(metrics: Mapping[str, float]) -> dict[str, Any]:
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
    facts = training_facts(training.journal, training.run)
    measured = {one.number: one.quality for one in facts.measured if one.quality is not None}
    best = facts.best
    assert best is not None and facts.zero_shot is not None  # noqa: S101, PT018 - a round was released
    version, quality = released(training, best.number), measured[best.number]
    times = training.journal.times(training.run)
    sites = _sites(replace(facts, rounds=facts.measured))
    total = max(times.values()) - facts.started  # not until now: the run may have ended long ago
    return RunResult(
        status=facts.status,
        stop_reason=facts.reason,
        run_id=facts.run,
        rounds=len(measured),
        model={
            "name": version.name,
            "version": version.version,
            "uri": version.uri,
            "sha256": best.model_sha256,
        },
        eval=grouped(quality.metrics) | _precision(quality),
        baseline={"zero_shot": grouped(facts.zero_shot.metrics)},
        sites=sites,
        seconds={
            "total": None if training.config.privacy.on else total,
            "per_round_overhead": _overhead(training, list(measured), times),
        },
        by_round={n: dict(one.metrics) for n, one in [(0, facts.zero_shot), *measured.items()]},
        privacy=_claim(facts.privacy, sites),
        metric=quality.metric,
    )


def _precision(quality: Quality) -> dict[str, Any]:
    """Return the number of records, and the 95 % confidence interval of each metric that has one."""
    precision: dict[str, Any] = {"records": quality.records}
    for name, value in quality.metrics.items():
        metric = METRICS.get(name)  # None: of a group
        if metric and (interval := metric.interval(value, quality.records, quality.answers)):
            precision[f"{name}_interval"] = list(interval)
    return precision


def _claim(plan: PrivacyPlan | None, sites: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the privacy claim of a training: the largest epsilon of its sites, and the terms."""
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


def _sites(facts: TrainingFacts) -> dict[str, dict[str, Any]]:
    delta = facts.privacy.delta if facts.privacy else None
    return {
        one.site: {
            "rounds": one.counted,
            "epsilon": one.epsilon,
            "delta": None if one.epsilon is None else delta,
            "bytes_up": one.bytes_up,
            "bytes_down": one.bytes_down,
            "declined": one.ends["declined"],
        }
        for one in site_totals(facts)
    }


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
            training.journal.require(training.run, number, f"{WAIT} {site}", SiteOutcome).seconds
            for site in plan_sites
        ]
        slowest = max((seconds for seconds in trained if seconds is not None), default=0.0)
        evaluating = times[(number, "evaluate")] - times[(number, "aggregate")]
        spans.append(ended - began - slowest - evaluating)
    return statistics.median(spans) if spans else 0.0
