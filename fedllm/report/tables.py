"""Turn the facts of a training into the tables and lists of its report."""

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from fedllm.journal.facts import Quality, TrainingFacts
from fedllm.privacy.accounting import ACCOUNTANT
from fedllm.protocol.terms import TRUST
from fedllm.report import words
from fedllm.report.intervals import interval
from fedllm.report.site_totals import SiteTotal

MOST_GROUPS = 40  # columns
PARTS = ("fedllm", "torch", "transformers", "peft", "dp-accounting", "prefect", "mlflow")


@dataclass(frozen=True)
class Figure:
    """One of the numbers at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A value, and a note in small print below it."""

    text: str
    note: str = ""


def figures(facts: TrainingFacts, totals: tuple[SiteTotal, ...]) -> list[Figure]:
    """Return the numbers at the top of the page."""
    finished = sum(entry.state == "finished" for entry in facts.rounds)
    failed = sum(entry.state == "failed" for entry in facts.rounds)
    up, down = sum(entry.bytes_up for entry in totals), sum(entry.bytes_down for entry in totals)
    at_odds = sum(entry.counted < entry.asked for entry in totals)
    tiles = [
        _quality_figure(facts),
        Figure(
            "rounds",
            f"{finished} of {facts.config.rounds.max}",
            f"{words.plural(failed, 'round')} passed over" if failed else "none passed over",
        ),
        Figure(
            "sites",
            str(len(totals)),
            f"{at_odds} missed a round or more" if at_odds else "all in every round" if totals else "",
        ),
        _privacy_figure(facts),
        Figure("bytes", words.size(up + down), f"{words.size(up)} up, {words.size(down)} down"),
    ]
    if facts.finished is not None:
        tiles.append(Figure("time", words.seconds(facts.finished - facts.started), "from start to end"))
    return tiles


def _quality_figure(facts: TrainingFacts) -> Figure:
    best = facts.best
    if best is None or best.quality is None:
        return Figure("quality", words.ABSENT, "no round was measured")
    quality, zero = best.quality, facts.zero_shot
    note = f"round {best.number}"
    if edges := interval(quality):
        note += f", 95 % {words.span(quality.main, edges)}"
    if zero is not None and zero.main is quality.main:
        points = " points" if quality.main.share else ""
        note += f"; {quality.main.signed(quality.value - zero.value)}{points} against zero-shot"
    return Figure(quality.main.words, words.metric(quality.main, quality.value), note)


def _privacy_figure(facts: TrainingFacts) -> Figure:
    if not facts.config.privacy.on:
        return Figure("privacy", "no DP configured")
    if facts.privacy is None:
        return Figure("privacy", words.ABSENT, "no privacy plan was made")
    spent = max((entry.epsilon for entry in facts.rounds if entry.epsilon is not None), default=None)
    terms = facts.privacy
    return Figure(
        "largest ε of a site",
        words.epsilon(spent),
        f"of {terms.epsilon:g} at δ {terms.delta:g}, by {terms.unit}",
    )


def settings(facts: TrainingFacts) -> dict[str, str]:
    """Return the settings of the training, by name."""
    config = facts.config
    adapter, local, rounds = config.model.adapter, config.local, config.rounds
    rank = "" if adapter.method == "full" else f", rank {adapter.rank}, on {', '.join(adapter.targets)}"
    entries = {
        "base model": config.model.base,
        "adapter": adapter.method + rank,
        "task": config.task.kind + (f": {', '.join(config.task.labels)}" if config.task.labels else ""),
        "rounds": f"{rounds.max} at most, at least {words.plural(rounds.min_sites, 'site')} each, "
        f"deadline {words.seconds(rounds.deadline)}",
        "at each site": f"{local.steps} steps of {local.batch_size}, {local.optimizer}, "
        f"learning rate {local.lr:g}" + (f", FedProx μ {local.prox_mu:g}" if local.prox_mu else ""),
        "aggregation": f"{config.aggregation.strategy}, weighted {_weighed(config.aggregation.weighting)}"
        + (f", {config.aggregation.combine} of the updates" if config.aggregation.combine != "mean" else ""),
        "codec": config.codec,
        "confidentiality": config.confidentiality,
        "public set": words.plural(facts.zero_shot.records, "record")
        if facts.zero_shot
        else "not measured yet",
        "seed": str(config.seed),
    }
    return {"federation": config.name} | entries


def _weighed(by: str) -> str:
    return "equally" if by == "equal" else f"by {by}"


def quality_rows(facts: TrainingFacts) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Return columns (all, then silos) and rows (zero-shot, champion, rounds) of the main metric."""
    measured = [entry for entry in facts.measured if entry.quality is not None]
    first = facts.zero_shot or (measured[0].quality if measured else None)
    if first is None:
        return [], []
    groups = sorted(first.groups)[:MOST_GROUPS]
    rows = [("zero-shot", _quality_cells(facts.zero_shot, groups))] if facts.zero_shot else []
    if facts.champion:
        metrics = facts.champion
        names = [first.main.name, *(f"{first.main.name}/{group}" for group in groups)]
        rows.append(("champion", [Cell(words.metric(first.main, metrics.get(name))) for name in names]))
    rows += [
        (f"round {entry.number}", _quality_cells(entry.quality, groups))
        for entry in measured
        if entry.quality
    ]
    return ["all", *groups], rows


def _quality_cells(quality: Quality, groups: list[str]) -> list[Cell]:
    def cell(value: float | None, edges: tuple[float, float] | None) -> Cell:
        return Cell(words.metric(quality.main, value), words.span(quality.main, edges))

    by_group = quality.groups
    return [
        cell(quality.value, interval(quality)),
        *(cell(by_group.get(group), interval(quality, group)) for group in groups),
    ]


def privacy_terms(facts: TrainingFacts) -> dict[str, str]:
    """Return the terms under which epsilon holds; empty without DP."""
    terms = facts.privacy
    if terms is None:
        return {}
    return {
        "unit": terms.unit + (f", named by the field {terms.unit_field}" if terms.unit_field else ""),
        "budget of a site": f"ε {terms.epsilon:g} at δ {terms.delta:g}",
        "adjacency": terms.adjacency,
        "mechanism": f"Gaussian, noise multiplier {terms.noise_multiplier:g}, clip {terms.clip:g}, "
        f"sampling rate {terms.sampling_rate:g}",
        "trust": TRUST[terms.unit],
        "accountant": ACCOUNTANT,
    }


def provenance(facts: TrainingFacts) -> dict[str, str]:
    """Return the ids and hashes from which the training can be traced."""
    best = facts.best
    return {
        "run": facts.run,
        "best model SHA-256": best.model_sha256 or words.ABSENT if best else "there is none",
        "base SHA-256": facts.base_sha256 or "no plan was made",
        "dvc.lock SHA-256": facts.dvc_lock_sha256 or "not on record",
        "Prefect flow run": ", ".join(facts.flow_runs) or "none",
        "this page was made with": ", ".join(f"{part} {number}" for part, number in versions().items()),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and the main libraries on this machine."""
    numbers = {"Python": python_version()}
    for part in PARTS:
        try:
            numbers[part] = version(part)
        except PackageNotFoundError:
            continue
    return numbers


def configuration(facts: TrainingFacts) -> str:
    """Return the whole configuration as JSON; it holds no secrets."""
    return json.dumps(facts.config.public_json(), indent=2, ensure_ascii=False)
