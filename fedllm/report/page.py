"""The page: facts in, one HTML document out. It needs no script, no network and no other file."""

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fedllm.journal.facts import STEPS, WAIT, TrainingFacts
from fedllm.report import figures, tables, words
from fedllm.report.site_totals import site_totals

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROUNDS = 100  # rows in a table; the journal has all
MOST_SITES = 500
MOST_EVENTS = 100
MOST_NUMBERS = 6  # of rounds, in one cell


def render(facts: TrainingFacts, *, made: float | None = None) -> str:
    """Write a training's report.

    Args:
        facts: what its journal tells. Whatever a site said in it is shown as text, never as markup.
        made: when, s since 1970; now if it is not said.
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
            asked=tables.asked(facts),
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


def _made(facts: TrainingFacts, at: float) -> str:
    """When the page was made: at a training's end, mostly, so under DP the date alone, as with that end."""
    return words.day(at) if facts.config.privacy.on else words.moment(at)


@dataclass(frozen=True)
class AtOdds:
    """Updates of one site that did not count for one reason."""

    rounds: str  # their numbers
    site: str
    verdict: str
    reason: str


def _at_odds(facts: TrainingFacts) -> list[AtOdds]:
    """Every update that was asked for and did not count, by site, verdict and reason; the newest last."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for one in facts.rounds:
        for site in one.sites:
            if site.verdict not in {"counted", "asked", "updated"}:
                key = (site.site, site.verdict, site.reason)
                found.setdefault(key, []).append(one.number)
    rows = sorted(found.items(), key=lambda row: (row[1][-1], row[0]))
    return [AtOdds(_listed(numbers), *key) for key, numbers in rows]


def _listed(numbers: list[int]) -> str:
    """The first and the last of them, where there are many."""
    told = [str(number) for number in numbers]
    return ", ".join(told if len(told) <= MOST_NUMBERS else [*told[: MOST_NUMBERS - 1], "…", told[-1]])


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
