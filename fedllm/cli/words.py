"""Describe milestones in one line each, for logs and pipes."""

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
    """Return seconds as `7 s` or `2:07 min`."""
    whole = round(seconds)
    return f"{whole} s" if whole < _MINUTE else f"{whole // _MINUTE}:{whole % _MINUTE:02} min"


def quality(milestone: Measured) -> str:
    """Return the main metric with its value; empty if it was not measured."""
    metric = main_metric(milestone.metrics, milestone.metric)
    value = milestone.metrics.get(metric.name)
    return "" if value is None else f"{metric.words} {metric.shown(value, digits=3)}"


@singledispatch
def in_words(milestone: Milestone) -> str:
    """Return one line about a milestone; empty for milestones that only the live view shows."""
    del milestone
    return ""


@in_words.register
def _(milestone: Prepared) -> str:
    return f"{milestone.stage}: {milestone.detail}" if milestone.detail else f"{milestone.stage} is ready"


@in_words.register
def _(milestone: Opened) -> str:
    before = f", {milestone.played} of them played before" if milestone.played else ""
    most = f"at most {milestone.rounds} rounds" if milestone.rounds > 1 else "one round"
    return f"run {milestone.run} of {milestone.federation}: {most}{before}"


@in_words.register
def _(milestone: Waiting) -> str:
    return milestone.reason


@in_words.register
def _(milestone: RoundBegun) -> str:
    return f"round {milestone.round} goes to {', '.join(milestone.sites)}"


@in_words.register
def _(milestone: SiteStep) -> str:
    return f"round {milestone.round}: {milestone.site} has done step {milestone.step} of {milestone.steps}"


@in_words.register
def _(milestone: SiteDone) -> str:
    return f"round {milestone.round}: {milestone.site} {milestone.status} {milestone.reason}".rstrip()


@in_words.register
def _(milestone: Measured) -> str:
    return f"{f'round {milestone.round}' if milestone.round else 'zero-shot'}: {quality(milestone)}"


@in_words.register
def _(milestone: RoundOver) -> str:
    return f"round {milestone.round} " + (
        f"is registered as {milestone.uri}" if milestone.uri else "waits for MLflow"
    )


@in_words.register
def _(milestone: Ended) -> str:
    return f"{milestone.status}: {milestone.reason}"
