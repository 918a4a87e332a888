"""Draw a training in the terminal: stages, one bar per site, the evaluation and the time left."""

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
_PREDICTIVE = 0.15  # share of a round's training after which its pace predicts the time left


@dataclass
class _Stage:
    """One line: a stage before the rounds, or a finished round."""

    detail: str
    begun: float
    ended: float | None = None


@dataclass
class _Round:
    """The round under way."""

    number: int
    begun: float
    steps: dict[str, tuple[int, int]]  # done and planned steps, by site
    done: dict[str, str] = field(default_factory=dict)  # status and reason, by site
    trained: float | None = None  # when the last site finished

    def share(self) -> float:
        """Return the share of the sites' work that is done, from 0 to 1."""
        shares = [
            1.0 if site in self.done else step / steps if steps else 0.0
            for site, (step, steps) in self.steps.items()
        ]
        return sum(shares) / len(shares) if shares else 0.0


class Picture:
    """A live view of one training: call it with milestones, and let rich's `Live` render it.

    Args:
        title: start of its first line.
        clock: returns s, monotonic.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock, self._begun = title, clock, clock()
        self._stages: dict[str, _Stage] = {}
        self._spinner = Spinner("dots")
        self._run = ""
        self._rounds = self._played = 0
        self._round: _Round | None = None
        self._took: list[float] = []  # s of each finished round
        self._evaluating: Evaluating | None = None
        self._evaluation: tuple[int, float] | None = None  # the round whose evaluation began, and when
        # s: zero-shot is measured during the first training on the same cores, so each takes twice as long.
        self._beside = 0.0
        self._over = False

    @singledispatchmethod
    def __call__(self, milestone: Milestone) -> None:
        """Update the view with a milestone."""

    @__call__.register
    def _(self, milestone: Preparing) -> None:
        stage = self._stages.setdefault(milestone.stage, _Stage("", self._clock()))
        stage.detail, stage.ended = milestone.detail, None

    @__call__.register
    def _(self, milestone: Prepared) -> None:
        now = self._clock()
        stage = self._stages.setdefault(milestone.stage, _Stage("", now))
        stage.detail, stage.ended = milestone.detail or stage.detail, now

    @__call__.register
    def _(self, milestone: Opened) -> None:
        self._run, self._rounds, self._played = milestone.run, milestone.rounds, milestone.played

    @__call__.register
    def _(self, milestone: Waiting) -> None:
        if milestone.reason:
            self._stages.setdefault("waiting", _Stage("", self._clock())).detail = milestone.reason
        else:
            self._stages.pop("waiting", None)

    @__call__.register
    def _(self, milestone: RoundBegun) -> None:
        self._stages.pop("waiting", None)
        self._round = _Round(milestone.round, self._clock(), dict.fromkeys(milestone.sites, (0, 0)))

    @__call__.register
    def _(self, milestone: SiteStep) -> None:
        if self._round and self._round.number == milestone.round:
            self._round.steps[milestone.site] = milestone.step, milestone.steps

    @__call__.register
    def _(self, milestone: SiteDone) -> None:
        if self._round and self._round.number == milestone.round:
            self._round.done[milestone.site] = f"{milestone.status} {milestone.reason}".rstrip()
            if set(self._round.done) >= set(self._round.steps):
                self._round.trained = self._clock()

    @__call__.register
    def _(self, milestone: Evaluating) -> None:
        if self._evaluation is None or self._evaluation[0] != milestone.round:
            self._evaluation = milestone.round, self._clock()
        self._evaluating = milestone

    @__call__.register
    def _(self, milestone: Measured) -> None:
        begun = self._clock()
        if self._evaluation and self._evaluation[0] == milestone.round:
            begun = self._evaluation[1]
        if self._evaluating and self._evaluating.round == milestone.round:
            self._evaluating = None
        if milestone.round == 0:
            self._beside = (self._clock() - begun) / 2
            self._stages["zero-shot"] = _Stage(quality(milestone), begun, self._clock())
        else:
            begun = self._round.begun if self._round else begun
            self._stages[f"round {milestone.round}"] = _Stage(quality(milestone), begun)

    @__call__.register
    def _(self, milestone: RoundOver) -> None:
        self(Prepared(f"round {milestone.round}"))
        if self._round is not None:
            self._took.append(self._clock() - self._round.begun)
        self._round = None

    @__call__.register
    def _(self, _milestone: Ended) -> None:
        self._round, self._evaluating, self._over = None, None, True
        self._stages.pop("waiting", None)

    def seconds_left(self) -> float | None:
        """Return an estimate of the s left from the pace so far; None while it is unknown."""
        left = self._rounds - self._played - len(self._took)
        if self._over or left <= 0:
            return None
        now, current = self._clock(), self._round
        done = now - current.begun if current is not None else 0.0
        if self._took:
            whole = (sum(self._took) - self._beside) / len(self._took)
        elif current is not None and current.share() >= _PREDICTIVE:
            trained = (current.trained or now) - current.begun - self._beside
            done -= self._beside
            whole = trained / current.share() + (self._beside or trained / 3)
        else:
            return None
        return max(0.0, left * whole - done)

    def __rich__(self) -> RenderableType:
        """Return what to show now."""
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
