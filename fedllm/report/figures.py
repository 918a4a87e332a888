"""Turn the facts of a training into the charts of its report."""

import statistics
from collections.abc import Iterator

from fedllm.journal.facts import STEPS, Quality, TrainingFacts
from fedllm.report import words
from fedllm.report.intervals import interval
from fedllm.report.line_chart import LineChart, Point, line_chart
from fedllm.report.row_chart import RowChart, Value, row_chart
from fedllm.report.site_totals import SiteTotal
from fedllm.tasks.loss import LOSS


def quality_by_round(facts: TrainingFacts) -> LineChart | None:
    """Return the main metric by round, from zero-shot on, with zero-shot and champion as levels."""
    measured = list(_measured(facts))
    if not measured:
        return None
    metric = measured[0][1].main
    name = metric.name
    levels = {}
    if facts.zero_shot and len(measured) > 1:
        levels["zero-shot"] = ("zero-shot", facts.zero_shot.value)
    if facts.champion and name in facts.champion:
        levels["champion"] = ("champion", facts.champion[name])
    points = [Point(number, quality.value, interval(quality)) for number, quality in measured]
    title = f"{metric.title} by round"
    return line_chart("quality", title, points, levels=levels, percent=metric.share)


def quality_by_silo(facts: TrainingFacts) -> RowChart | None:
    """Return the best round's main metric with one row per silo; None unless the metric is a share."""
    best = facts.best
    if best is None or best.quality is None or not best.quality.main.share:
        return None
    metric = best.quality.main
    values = []
    for silo, value in sorted(best.quality.groups.items()):
        edges = interval(best.quality, silo)
        text = words.metric(metric, value) + (f" ({words.span(metric, edges)})" if edges else "")
        marks = {}
        if facts.zero_shot and silo in facts.zero_shot.groups:
            marks["zero-shot"] = facts.zero_shot.groups[silo]
        if facts.champion and f"{metric.name}/{silo}" in facts.champion:
            marks["champion"] = facts.champion[f"{metric.name}/{silo}"]
        values.append(Value(silo, value, text, edges, marks))
    return row_chart("silos", f"{metric.title} by silo, round {best.number}", values)


def loss_by_round(facts: TrainingFacts) -> LineChart | None:
    """Return the loss on the public set by round."""
    points = [Point(n, q.metrics[LOSS.name]) for n, q in _measured(facts) if LOSS.name in q.metrics]
    return line_chart("loss", f"{LOSS.title} by round", points)


def drift_by_round(facts: TrainingFacts) -> LineChart | None:
    """Return how far each round moved the model."""
    points = [Point(entry.number, entry.drift) for entry in facts.rounds if entry.drift is not None]
    limit = facts.config.rounds.drift
    levels = {"budget": ("stops below", limit)} if limit is not None else {}
    return line_chart("drift", "Drift by round", points, levels=levels, from_zero=True)


def epsilon_by_round(facts: TrainingFacts) -> LineChart | None:
    """Return the largest epsilon of the sites by round, with a site's budget as a level."""
    if facts.privacy is None:
        return None
    points = [Point(entry.number, entry.epsilon) for entry in facts.rounds if entry.epsilon is not None]
    levels = {"budget": ("budget", facts.privacy.epsilon)}
    title = "Largest ε of the sites, by round"
    return line_chart("epsilon", title, points, levels=levels, from_zero=True, form=words.epsilon)


def epsilon_by_site(facts: TrainingFacts, totals: tuple[SiteTotal, ...]) -> RowChart | None:
    """Return how much of its budget each site has spent in this training."""
    if facts.privacy is None:
        return None
    budget = facts.privacy.epsilon
    values = [
        Value(row.site, row.epsilon, f"{words.epsilon(row.epsilon)} of {budget:g}, {row.left_pct:g} % left")
        for row in totals
        if row.epsilon is not None
    ]
    return row_chart("budgets", f"ε spent by site, of {budget:g}", values, bars=True, most=budget)


def seconds_by_step(facts: TrainingFacts) -> RowChart | None:
    """Return the median seconds of each step over the finished rounds."""
    finished = [entry for entry in facts.rounds if entry.state == "finished"]
    values = []
    for step in STEPS:
        took = [entry.seconds[step] for entry in finished if step in entry.seconds]
        if took:
            median = statistics.median(took)
            values.append(Value(step, median, words.seconds(median)))
    return row_chart("seconds", "Seconds a step, median of the finished rounds", values, bars=True)


def _measured(facts: TrainingFacts) -> Iterator[tuple[int, Quality]]:
    if facts.zero_shot is not None:
        yield 0, facts.zero_shot
    for entry in facts.measured:
        assert entry.quality is not None  # noqa: S101 - `measured` holds such rounds only
        yield entry.number, entry.quality
