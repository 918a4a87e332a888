"""A training as a picture in the terminal: stages, a bar for each site, the evaluation, the time left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fedllm.cli.words import duration, quality
from fedllm.milestones import (
    Ended,
    Evaluating,
    Measured,
    Milestone,
    Opened,
    Prepared,
    Preparing,
    RoundBegun,
    RoundOver,
    SiteDone,
    SiteStep,
    Waiting,
)

_BAR = 30  # columns
_TELLING = 0.15  # of a round's training: before that, its pace says little about the time left


@dataclass
class _Stage:
    """One line of what comes before the rounds, or a round that is over."""

    detail: str
    begun: float
    ended: float | None = None


@dataclass
class _Round:
    """The round under way."""

    number: int
    begun: float
    steps: dict[str, tuple[int, int]]  # done and promised, by site
    done: dict[str, str] = field(default_factory=dict)  # what came of it, by site
    trained: float | None = None  # when the last site was done

    def share(self) -> float:
        """How much of the sites' work is done, from 0 to 1."""
        shares = [
            1.0 if site in self.done else step / steps if steps else 0.0
            for site, (step, steps) in self.steps.items()
        ]
        return sum(shares) / len(shares) if shares else 0.0


class Picture:
    """Draws the milestones of one training; rich renders it as often as its `Live` likes.

    Args:
        title: its first line.
        clock: s, monotonic.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock, self._begun = title, clock, clock()
        self._stages: dict[str, _Stage] = {}
        self._spinner = Spinner("dots")
        self._run = ""
        self._rounds = self._played = 0
        self._round: _Round | None = None
        self._took: list[float] = []  # s, by round that is over
        self._evaluating: Evaluating | None = None
        self._evaluation: tuple[int, float] | None = None  # the round whose evaluation began, and when
        # s: zero-shot is measured beside the first training, on the same cores; each takes twice its time.
        self._beside = 0.0
        self._over = False

    @singledispatchmethod
    def __call__(self, milestone: Milestone) -> None:
        """Take a milestone in."""

    @__call__.register
    def _(self, at: Preparing) -> None:
        stage = self._stages.setdefault(at.stage, _Stage("", self._clock()))
        stage.detail, stage.ended = at.detail, None

    @__call__.register
    def _(self, at: Prepared) -> None:
        now = self._clock()
        stage = self._stages.setdefault(at.stage, _Stage("", now))
        stage.detail, stage.ended = at.detail or stage.detail, now

    @__call__.register
    def _(self, at: Opened) -> None:
        self._run, self._rounds, self._played = at.run, at.rounds, at.played

    @__call__.register
    def _(self, at: Waiting) -> None:
        if at.reason:
            self._stages.setdefault("waiting", _Stage("", self._clock())).detail = at.reason
        else:
            self._stages.pop("waiting", None)

    @__call__.register
    def _(self, at: RoundBegun) -> None:
        self._stages.pop("waiting", None)
        self._round = _Round(at.round, self._clock(), dict.fromkeys(at.sites, (0, 0)))

    @__call__.register
    def _(self, at: SiteStep) -> None:
        if self._round and self._round.number == at.round:
            self._round.steps[at.site] = at.step, at.steps

    @__call__.register
    def _(self, at: SiteDone) -> None:
        if self._round and self._round.number == at.round:
            self._round.done[at.site] = f"{at.status} {at.reason}".rstrip()
            if set(self._round.done) >= set(self._round.steps):
                self._round.trained = self._clock()

    @__call__.register
    def _(self, at: Evaluating) -> None:
        if self._evaluation is None or self._evaluation[0] != at.round:
            self._evaluation = at.round, self._clock()
        self._evaluating = at

    @__call__.register
    def _(self, at: Measured) -> None:
        begun = self._clock()
        if self._evaluation and self._evaluation[0] == at.round:
            begun = self._evaluation[1]
        if self._evaluating and self._evaluating.round == at.round:
            self._evaluating = None
        if at.round == 0:
            self._beside = (self._clock() - begun) / 2
            self._stages["zero-shot"] = _Stage(quality(at), begun, self._clock())
        else:
            begun = self._round.begun if self._round else begun
            self._stages[f"round {at.round}"] = _Stage(quality(at), begun)

    @__call__.register
    def _(self, at: RoundOver) -> None:
        self(Prepared(f"round {at.round}"))
        if self._round is not None:
            self._took.append(self._clock() - self._round.begun)
        self._round = None

    @__call__.register
    def _(self, _at: Ended) -> None:
        self._round, self._evaluating, self._over = None, None, True
        self._stages.pop("waiting", None)

    def seconds_left(self) -> float | None:
        """An estimate by the pace so far, s; None while nothing tells."""
        left = self._rounds - self._played - len(self._took)
        if self._over or left <= 0:
            return None
        now, at = self._clock(), self._round
        done = now - at.begun if at is not None else 0.0
        if self._took:
            whole = (sum(self._took) - self._beside) / len(self._took)
        elif at is not None and at.share() >= _TELLING:
            trained = (at.trained or now) - at.begun - self._beside
            done -= self._beside
            whole = trained / at.share() + (self._beside or trained / 3)
        else:
            return None
        return max(0.0, left * whole - done)

    def __rich__(self) -> RenderableType:
        """The picture now."""
        now = self._clock()
        rows = Table.grid(padding=(0, 1))
        for name, stage in self._stages.items():
            mark: RenderableType = Text("✔", "green") if stage.ended else self._spinner
            took = duration((stage.ended or now) - stage.begun)
            rows.add_row(mark, Text(name, "bold"), Text(stage.detail), Text(took, "dim"))
        if self._evaluating and self._evaluating.round == 0:
            self._bar(rows, "zero-shot", self._evaluating.done, self._evaluating.records, "texts")
        if self._round:
            count = f"of {self._rounds}"
            took = duration(now - self._round.begun)
            rows.add_row(self._spinner, Text(f"round {self._round.number}", "bold"), count, Text(took, "dim"))
            for site, (step, steps) in self._round.steps.items():
                if site in self._round.done:
                    fine = self._round.done[site] == "updated"
                    mark = Text("✔", "green") if fine else Text("✘", "red")
                    rows.add_row("", Text(f"  {site}"), Text.assemble(mark, " ", self._round.done[site]), "")
                else:
                    self._bar(rows, f"  {site}", step, steps, "steps")
            if self._evaluating and self._evaluating.round > 0:
                self._bar(rows, "  evaluation", self._evaluating.done, self._evaluating.records, "texts")
        return Group(self._head(now), rows)

    def _head(self, now: float) -> Text:
        parts = [self._title, f"run {self._run}" if self._run else "", duration(now - self._begun)]
        left = self.seconds_left()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return Text("  ".join(part for part in parts if part), "bold cyan")

    def _bar(self, rows: Table, name: str, done: int, total: int, unit: str) -> None:
        bar = ProgressBar(total=max(1, total), completed=done, width=_BAR)
        count = f"{done} of {total} {unit}" if total else "waiting"
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(count, "dim"))
        rows.add_row("", Text(name), line, "")
