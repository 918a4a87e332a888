"""Milestones in words: what a log or a pipe gets, a line each."""

from functools import singledispatch

from fedllm.milestones import (
    Ended,
    Measured,
    Milestone,
    Opened,
    Prepared,
    RoundBegun,
    RoundOver,
    SiteDone,
    SiteStep,
    Waiting,
)
from fedllm.tasks.metrics import main_metric

_MINUTE = 60  # s


def duration(seconds: float) -> str:
    """Seconds as `7 s` or `2:07 min`."""
    whole = round(seconds)
    return f"{whole} s" if whole < _MINUTE else f"{whole // _MINUTE}:{whole % _MINUTE:02} min"


def quality(at: Measured) -> str:
    """The metric that counts, of a model; empty where it was not measured."""
    metric = main_metric(at.metrics, at.metric)
    value = at.metrics.get(metric.name)
    return "" if value is None else f"{metric.words} {metric.shown(value, digits=3)}"


@singledispatch
def in_words(milestone: Milestone) -> str:
    """One line about a milestone; empty for one that is only of use in a picture."""
    del milestone
    return ""


@in_words.register
def _(at: Prepared) -> str:
    return f"{at.stage}: {at.detail}" if at.detail else f"{at.stage} is ready"


@in_words.register
def _(at: Opened) -> str:
    before = f", {at.played} of them played before" if at.played else ""
    most = f"at most {at.rounds} rounds" if at.rounds > 1 else "one round"
    return f"run {at.run} of {at.federation}: {most}{before}"


@in_words.register
def _(at: Waiting) -> str:
    return at.reason


@in_words.register
def _(at: RoundBegun) -> str:
    return f"round {at.round} goes to {', '.join(at.sites)}"


@in_words.register
def _(at: SiteStep) -> str:
    return f"round {at.round}: {at.site} has done step {at.step} of {at.steps}"


@in_words.register
def _(at: SiteDone) -> str:
    return f"round {at.round}: {at.site} {at.status} {at.reason}".rstrip()


@in_words.register
def _(at: Measured) -> str:
    return f"{f'round {at.round}' if at.round else 'zero-shot'}: {quality(at)}"


@in_words.register
def _(at: RoundOver) -> str:
    return f"round {at.round} " + (f"is registered as {at.uri}" if at.uri else "waits for MLflow")


@in_words.register
def _(at: Ended) -> str:
    return f"{at.status}: {at.reason}"
