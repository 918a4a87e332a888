"""Render the facts of a training as one HTML document without scripts or external resources."""

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fedllm.journal.facts import STEPS, WAIT, TrainingFacts
from fedllm.report import figures, tables, words
from fedllm.report.site_totals import site_totals

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROUNDS = 100  # rows in a table; the journal holds all rounds
MOST_SITES = 500
MOST_EVENTS = 100
MOST_NUMBERS = 6  # round numbers in one cell


def render(facts: TrainingFacts, *, made: float | None = None) -> str:
    """Return a training's report as HTML.

    Args:
        facts: read from its journal. Text from sites is escaped: it never becomes markup.
        made: the time the report was made, s since 1970; default: now.
    """
    totals = site_totals(facts)
    columns, rows = tables.quality_rows(facts)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            facts=facts,
            made=_made(facts, time.time() if made is None else made),
            figures=tables.figures(facts, totals),
            asked=tables.settings(facts),
            quality=figures.quality_by_round(facts),
            silos=figures.quality_by_silo(facts),
            quality_columns=columns,
            quality_rows=rows[-MOST_ROUNDS:] if len(rows) > MOST_ROUNDS else rows,
            loss=figures.loss_by_round(facts),
            drift=figures.drift_by_round(facts),
            totals=totals[:MOST_SITES],
            sites_left_out=max(0, len(totals) - MOST_SITES),
            at_odds=_at_odds(facts)[-MOST_EVENTS:],
            terms=tables.privacy_terms(facts),
            epsilon=figures.epsilon_by_round(facts),
            budgets=figures.epsilon_by_site(facts, totals),
            events=facts.security[-MOST_EVENTS:],
            events_left_out=max(0, len(facts.security) - MOST_EVENTS),
            rounds=facts.rounds[-MOST_ROUNDS:],
            rounds_left_out=max(0, len(facts.rounds) - MOST_ROUNDS),
            seconds=figures.seconds_by_step(facts),
            steps=[step for step in STEPS if not (step == WAIT and facts.config.privacy.on)],
            provenance=tables.provenance(facts),
            configuration=tables.configuration(facts),
            words=words,
        )
    )


def _made(facts: TrainingFacts, made: float) -> str:
    """Return when the page was made; under DP only the date, since it may reveal when the training ended."""
    return words.day(made) if facts.config.privacy.on else words.moment(made)


@dataclass(frozen=True)
class AtOdds:
    """The updates of one site that did not count for the same reason."""

    rounds: str  # numbers of the rounds
    site: str
    verdict: str
    reason: str


def _at_odds(facts: TrainingFacts) -> list[AtOdds]:
    """Return the requested updates that did not count, by site, verdict and reason; newest last."""
    rounds: dict[tuple[str, str, str], list[int]] = {}
    for entry in facts.rounds:
        for site in entry.sites:
            if site.verdict not in {"counted", "asked", "updated"}:
                key = (site.site, site.verdict, site.reason)
                rounds.setdefault(key, []).append(entry.number)
    rows = sorted(rounds.items(), key=lambda row: (row[1][-1], row[0]))
    return [AtOdds(_listed(numbers), *key) for key, numbers in rows]


def _listed(numbers: list[int]) -> str:
    """Join the numbers with commas; of many, only the first few and the last."""
    texts = [str(number) for number in numbers]
    return ", ".join(texts if len(texts) <= MOST_NUMBERS else [*texts[: MOST_NUMBERS - 1], "…", texts[-1]])


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("fedllm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
