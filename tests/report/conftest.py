"""Trainings, and their reports in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner, Step
from fedllm.errors import CancelledError
from fedllm.journal.facts import TrainingFacts
from tests.browser import SLOW
from tests.report.trained import PRIVATE, configuration, opened, trained

WEST = {"west": {"max_seconds": 1e-3}}


class Shown:
    """A page in the browser, with everything that it said and asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        self.said.append(message.text)

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    def measure(self, script: str) -> Any:  # noqa: ANN401 - whatever a script returns
        return self.page.evaluate(script)


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Open a report in a window of some width, in light or dark."""
    pages: list[Page] = []

    def opened(html: str, *, width: int = 1200, scheme: Any = "light") -> Shown:  # noqa: ANN401 - a literal
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.set_default_timeout(SLOW)
        pages.append(page)
        shown = Shown(page)
        page.goto(file.as_uri())
        return shown

    yield opened
    for page in pages:
        page.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A coordinator's home for the whole file, and for no longer."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        yield folder


class Halted(JournaledRunner):
    """Runs steps until the second round, which is cancelled."""

    def run(self, step: Step[Any], number: int, *rest: Any) -> Any:  # noqa: ANN401 - as its parent
        if number == 2:
            raise CancelledError("the test has seen enough")
        return super().run(step, number, *rest)


@pytest.fixture(scope="module")
def halted(home: Path) -> str:
    """The report that a training left when it was cancelled after its first round; see `plain`."""
    with opened(configuration(home), home, policies=WEST) as training:
        with pytest.raises(CancelledError):
            play(training, Halted(training))
        return (training.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def plain(home: Path, halted: str) -> TrainingFacts:
    """The same training, resumed: two rounds of three sites without DP; west has no time to train."""
    assert halted
    return trained(configuration(home), home, policies=WEST)


@pytest.fixture(scope="module")
def private(home: Path) -> TrainingFacts:
    """Two rounds of three sites under DP, in a federation of their own."""
    folder = home / "private"
    folder.mkdir()
    return trained(configuration(folder, name="private", **PRIVATE), folder, run="run-dp")
