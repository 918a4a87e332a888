"""Show the progress of a training: a live view in a terminal, else one line per milestone."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fedllm.cli.output import console
from fedllm.cli.words import in_words
from fedllm.logs import wants_json
from fedllm.milestones import Milestone, SiteStep, watched_by

_FRAMES = 8  # per second
_SILENT = 60.0  # s without a line after which a site's step gets one


@contextmanager
def watching(title: str) -> Iterator[None]:
    """Show the milestones of this block on stderr, and hide the warnings of libraries.

    With `--debug` nothing is hidden, and milestones are lines in the log. With FEDLLM_LOG=json only JSON is
    written, so nothing is shown.
    """
    if wants_json():
        yield
        return
    debug = bool(os.environ.get("FEDLLM_DEBUG"))
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)
    screen = console()
    if debug or not screen.is_terminal:
        with watched_by(_Lines()):
            yield
        return
    from rich.live import Live

    from fedllm.cli.live_view import Picture

    picture = Picture(title)
    with Live(picture, console=screen, refresh_per_second=_FRAMES), watched_by(picture):
        yield


class _Lines:
    """Writes one line per milestone, with the seconds since the start."""

    def __init__(self) -> None:
        self._begun = self._written = time.monotonic()
        self._last = ""

    def __call__(self, milestone: Milestone) -> None:
        line, now = in_words(milestone), time.monotonic()
        if isinstance(milestone, SiteStep) and now - self._written < _SILENT:
            return
        if line and line != self._last:
            self._last, self._written = line, now
            console().print(f"{now - self._begun:6.1f} s  {line}", markup=False, soft_wrap=True)


def mute_prefect() -> None:
    """Remove Prefect's log, which its server keeps, from the terminal. Call it after Prefect is imported."""
    if os.environ.get("FEDLLM_DEBUG") or wants_json():
        return
    from prefect.logging.handlers import PrefectConsoleHandler

    loggers = [logging.getLogger(name) for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        for handler in list(logger.handlers):
            if isinstance(handler, PrefectConsoleHandler):
                logger.removeHandler(handler)
