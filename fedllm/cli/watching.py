"""Show a training to the terminal it was started from: a picture, or a line a milestone elsewhere."""

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

_FRAMES = 8  # a second
_SILENT = 60.0  # s without a line, after which a site's step is told


@contextmanager
def watching(title: str) -> Iterator[None]:
    """Show the milestones of this block on stderr, and keep what libraries say off the terminal.

    With `--debug` they say all they have to say, and milestones are lines among it. With FEDLLM_LOG=json
    nothing but JSON is written, so nothing is shown.
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
    """Writes a line a milestone, with the seconds since it began."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()
        self._last = ""

    def __call__(self, milestone: Milestone) -> None:
        line, now = in_words(milestone), time.monotonic()
        if isinstance(milestone, SiteStep) and now - self._told < _SILENT:
            return
        if line and line != self._last:
            self._last, self._told = line, now
            console().print(f"{now - self._begun:6.1f} s  {line}", markup=False, soft_wrap=True)


def mute_prefect() -> None:
    """Take Prefect's log off the terminal: its server has every line of it. Call it once it is imported."""
    if os.environ.get("FEDLLM_DEBUG") or wants_json():
        return
    from prefect.logging.handlers import PrefectConsoleHandler

    known = [logging.getLogger(name) for name in ("", "prefect", "prefect.flow_runs", "prefect.task_runs")]
    for logger in known:
        for handler in list(logger.handlers):
            if isinstance(handler, PrefectConsoleHandler):
                logger.removeHandler(handler)
