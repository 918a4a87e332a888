"""Reports of real trainings: what they say, and what a reader sees."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from sqlalchemy import delete

from fedllm.coordinator.rounds import close, play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.errors import ConfigError, RoundError
from fedllm.journal.facts import TrainingFacts
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import REFUSED, Audited, Evaluated, RefusedRelease, SiteOutcome
from fedllm.journal.runs import find_run
from fedllm.journal.tables import OutcomeRow
from fedllm.journal.training_facts import training_facts
from fedllm.privacy.accounting import Event, epsilon
from fedllm.report import render
from fedllm.report.figures import epsilon_by_round
from tests.report.conftest import Shown
from tests.report.trained import configuration, opened

Show = Callable[..., Shown]


class Text(HTMLParser):
    """What a reader reads, tag by tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in {"style", "desc"}

    def handle_endtag(self, tag: str) -> None:
        self._silent = self._silent and tag not in {"style", "desc"}

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.parts).split())


def words(facts: TrainingFacts) -> str:
    return Text(render(facts)).words


def row_of(facts: TrainingFacts, site: str) -> str:
    """The row of the sites' table."""
    table = render(facts).partition("Each site over all rounds")[2].partition("</table>")[0]
    return Text(table.partition(f">{site}</th>")[2].partition("</tr>")[0]).words


def test_it_shows_the_quality_that_the_journal_holds_with_its_interval(plain: TrainingFacts) -> None:
    with closing(Journal("clinics")) as journal:
        measured = journal.require("run-1", 2, "evaluate", Evaluated)
    share, silo = measured.metrics["accuracy"], measured.metrics["accuracy/east"]
    told = words(plain)
    assert measured.records == 60
    assert measured.by_group == {"east": 20, "north": 20, "west": 20}
    assert f"round 2 {100 * share:.1f} %" in told
    assert f"{100 * silo:.1f} %" in told
    # Wilson by its formula: 95 %, z = 1.959964.
    z2, n = 1.959964**2, 60
    middle, half = share + z2 / (2 * n), (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
    low, high = (max(0.0, middle - half) / (1 + z2 / n), min(1 + z2 / n, middle + half) / (1 + z2 / n))
    assert f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}" in told


def test_a_site_that_failed_and_declined_is_told_with_its_reason(plain: TrainingFacts) -> None:
    row = row_of(plain, "west")
    assert row.startswith("declined 0 of 2 1 1 0")
    assert "of training per run are spent" in row
    assert row_of(plain, "east").startswith("counted 2 of 2 0 0 0")
    assert "the policy's 0.001 s of training per run are spent" in words(plain)


def test_bytes_are_those_of_the_journal(plain: TrainingFacts) -> None:
    with closing(Journal("clinics")) as journal:
        sizes = [
            done.payload.sealed_bytes
            for number in (1, 2)
            for site in ("east", "north", "west")
            if (done := journal.require("run-1", number, f"remote-local-train {site}", SiteOutcome)).payload
        ]
    assert len(sizes) == 4
    assert f"{sum(sizes) / 1000:.1f} kB up" in words(plain)


def test_without_dp_it_says_so_and_shows_no_epsilon(plain: TrainingFacts) -> None:
    told = words(plain)
    assert "no DP configured" in told
    assert "\N{GREEK SMALL LETTER EPSILON}" not in told


def test_under_dp_it_shows_what_the_ledgers_add_up_to_rounded_up(private: TrainingFacts) -> None:
    spent = epsilon([Event(0.2, 1.0, 6)], 1e-5)
    told = words(private)
    shown = float(re.search(r"largest \S+ of a site ([\d.]+)", told).group(1))  # type: ignore[union-attr]
    assert 0 <= shown - spent < 1e-3
    assert f"{shown:g} of 6" in told
    assert all(f"{shown:g}" in row_of(private, site) for site in ("east", "north", "west"))


def test_no_epsilon_is_shown_as_less_than_it_is(private: TrainingFacts) -> None:
    spent = 2.99831  # to four digits 2.998, which would be less
    first = private.rounds[0]
    sites = tuple(replace(site, epsilon=spent) for site in first.sites)
    chart = epsilon_by_round(replace(private, rounds=(replace(first, sites=sites),)))
    assert chart is not None
    assert [dot.text for dot in chart.dots] == ["round 1: 2.999"]
    assert "2.999" in chart.summary
    assert "2.998" not in render(replace(private, rounds=(replace(first, sites=sites),)))


def test_under_dp_nothing_that_rests_on_a_sites_records_is_shown(private: TrainingFacts) -> None:
    page = render(private)
    assert "remote-local-train" not in page  # how long sites trained
    assert ", ended" not in page  # nor by subtraction
    assert private.finished is None
    assert [one.state for one in private.rounds] == ["finished"] * 2
    with closing(Journal("private")) as journal:
        finished = find_run(journal, "run-dp").finished  # type: ignore[union-attr]
        assert finished is not None
        assert journal.require("run-dp", 1, "dp-audit", Audited).verdicts[0].epsilon


def test_under_dp_the_one_time_of_day_is_that_of_the_beginning(
    private: TrainingFacts, plain: TrainingFacts
) -> None:
    began = private.started
    of_day = re.compile(r"\d\d:\d\d")
    page = Text(render(private, made=began + 7260)).words  # as at the training's end, two hours later
    assert of_day.findall(page) == [time.strftime("%H:%M", time.gmtime(began))]
    assert f"Made {time.strftime('%Y-%m-%d', time.gmtime(began + 7260))} by" in page
    assert len(of_day.findall(words(plain))) == 3  # begun, ended, made


def test_a_release_that_mlflow_refuses_rounds_later_lengthens_no_round(private: TrainingFacts) -> None:
    with closing(Journal("private")) as journal:
        refused = RefusedRelease(reason="a name that is taken")
        journal.once("run-dp", 1, REFUSED, RefusedRelease, lambda: refused)
        try:
            told = training_facts(journal, "run-dp")
        finally:
            with journal.write() as session:
                session.execute(delete(OutcomeRow).where(OutcomeRow.step == REFUSED))
    assert told.rounds[0].version.startswith("refused by MLflow")
    assert [one.seconds for one in told.rounds] == [one.seconds for one in private.rounds]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
def test_a_browser_shows_it_without_a_word_of_complaint_or_a_request(
    plain: TrainingFacts, show: Show, width: int, scheme: str
) -> None:
    shown = show(render(plain), width=width, scheme=scheme)
    assert shown.said == []
    assert [url.rpartition("/")[2] for url in shown.asked] == ["report.html"]
    assert shown.measure("document.documentElement.scrollWidth") == width
    assert shown.measure("document.querySelectorAll('svg path.path').length") >= 3
    assert shown.measure("document.querySelector('h1').textContent") == "clinics"


def test_dark_is_dark_and_light_is_light(plain: TrainingFacts, show: Show) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert show(render(plain), scheme="light").measure(ground) > 200
    assert show(render(plain), scheme="dark").measure(ground) < 50


@pytest.mark.servers
def test_the_command_writes_the_report_and_says_where(home: Path, plain: TrainingFacts) -> None:
    federation = home / "clinics.yaml"
    federation.write_text(yaml.safe_dump(plain.config.public_json()))
    command = [sys.executable, "-m", "fedllm", "report", "run-1", "--config", str(federation), "--json"]
    out = home / "told.html"
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "schema": "fedllm.training-report/1",
        "run_id": "run-1",
        "status": "completed",
        "out": str(out),
        "bytes": out.stat().st_size,
    }
    assert words(plain).partition("Made")[0] == Text(out.read_text()).words.partition("Made")[0]
    left = home / "home" / "coordinator" / "clinics" / "runs" / "run-1" / "report.html"
    assert Text(left.read_text()).words.partition("Made")[0] == words(plain).partition("Made")[0]


def test_a_training_without_a_finished_round_has_a_report_that_says_why(
    home: Path, tmp_path: Path, show: Show
) -> None:
    assert home
    config = configuration(tmp_path, name="lonely", rounds={"max": 2, "join": "1s"})
    with opened(config, tmp_path, agents=False) as training:
        with pytest.raises(RoundError):
            play(training, JournaledRunner(training))
        page = (training.folder / "report.html").read_text()
    told = Text(page).words
    assert "failed 0 of 3 sites are live, rounds.min_sites is 2" in told
    assert "rounds 0 of 2 1 round passed over" in told
    assert "Round 1 was passed over" in told
    assert "No site was asked." in told
    assert show(page, width=375).said == []


def test_a_cancelled_training_has_a_report_and_its_resumption_has_the_whole(
    halted: str, plain: TrainingFacts
) -> None:
    assert "cancelled the test has seen enough" in Text(halted).words
    assert "rounds 1 of 2 none passed over" in Text(halted).words
    assert [one.state for one in plain.rounds] == ["finished", "finished"]
    assert "rounds 2 of 2 none passed over" in words(plain)


def test_a_report_that_cannot_be_made_costs_the_report_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert home

    def broken(*_: object, **__: object) -> str:
        raise ValueError("no such filter")

    monkeypatch.setattr("fedllm.report.render", broken)
    with opened(configuration(tmp_path, name="unreported"), tmp_path, agents=False) as training:
        close(training, "failed", "nobody came")
        row = find_run(training.journal, "run-1")
    assert row is not None
    assert (row.status, row.reason) == ("failed", "nobody came")
    assert "make the report with `fedllm report run-1`" in caplog.text


def test_a_run_that_never_was_is_refused_with_those_that_were(plain: TrainingFacts) -> None:
    with (
        closing(Journal(plain.config.name)) as journal,
        pytest.raises(ConfigError, match="clinics has no run never-was here; the newest are: run-1"),
    ):
        training_facts(journal, "never-was")


def test_a_running_training_can_be_reported(plain: TrainingFacts) -> None:
    open_round = replace(plain.rounds[1], state="open", quality=None, drift=None, version="", seconds={})
    told = words(
        replace(plain, status="running", reason="", finished=None, rounds=(plain.rounds[0], open_round))
    )
    assert "The training is under way" in told
    assert "Round 2 is under way" in told
