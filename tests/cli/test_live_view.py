"""What a terminal shows of a training, milestone by milestone."""

from io import StringIO

import pytest
from rich.console import Console

from fedllm.cli.live_view import Picture
from fedllm.cli.watching import watching
from fedllm.cli.words import duration, in_words
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
    report,
    watched_by,
)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(picture: Picture) -> str:
    screen = Console(file=StringIO(), width=100)
    screen.print(picture)
    return screen.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def picture(clock: Clock) -> Picture:
    return Picture("fedllm demo", clock)


def line(picture: Picture, name: str) -> str:
    return next(row for row in drawn(picture).splitlines() if name in row)


def test_a_stage_shows_what_it_does_and_then_what_is_there(picture: Picture, clock: Clock) -> None:
    picture(Preparing("stack", "starting MinIO"))
    clock.now = 7
    assert "starting MinIO" in line(picture, "stack")
    assert "7 s" in line(picture, "stack")
    picture(Prepared("stack", "MinIO and Prefect"))
    clock.now = 60
    assert "✔" in line(picture, "stack")
    assert "MinIO and Prefect" in line(picture, "stack")
    assert "7 s" in line(picture, "stack"), "its time stands still once it is ready"


def test_every_site_of_a_round_has_a_bar_until_it_is_done(picture: Picture) -> None:
    picture(Opened("sentiment", "r1", 3))
    picture(RoundBegun(1, ("amazon", "nyt")))
    picture(SiteStep(1, "amazon", 5, 16))
    assert "5 of 16 steps" in line(picture, "amazon")
    assert "waiting" in line(picture, "nyt")
    picture(SiteDone(1, "amazon", "updated"))
    picture(SiteDone(1, "nyt", "declined", "outside working hours"))
    assert "✔ updated" in line(picture, "amazon")
    assert "✘ declined outside working hours" in line(picture, "nyt")
    assert "of 3" in line(picture, "round 1")


def test_steps_of_another_round_move_no_bar(picture: Picture) -> None:
    picture(RoundBegun(2, ("amazon",)))
    picture(SiteStep(1, "amazon", 5, 16))
    assert "waiting" in line(picture, "amazon")


def test_zero_shot_and_a_rounds_evaluation_have_bars_and_then_a_figure(
    picture: Picture, clock: Clock
) -> None:
    picture(RoundBegun(1, ("amazon",)))
    picture(Evaluating(0, 40, 400))
    clock.now = 33
    assert "40 of 400 texts" in line(picture, "zero-shot")
    picture(Measured(0, {"accuracy": 0.7925, "loss": 0.6}))
    assert "accuracy 79.2 %" in line(picture, "zero-shot")
    assert "33 s" in line(picture, "zero-shot")
    picture(SiteDone(1, "amazon", "updated"))
    picture(Evaluating(1, 200, 400))
    assert "200 of 400 texts" in line(picture, "evaluation")
    picture(Measured(1, {"loss": 0.512}))
    picture(RoundOver(1, "models:/x/1"))
    assert "loss 0.512" in line(picture, "round 1")
    assert "evaluation" not in drawn(picture)


def test_the_time_left_follows_from_the_rounds_that_are_over(picture: Picture, clock: Clock) -> None:
    picture(Opened("sentiment", "r1", 3))
    assert picture.seconds_left() is None
    picture(RoundBegun(1, ("amazon",)))
    clock.now = 80
    picture(Measured(1, {"accuracy": 0.8}))
    picture(RoundOver(1, None))
    assert picture.seconds_left() == pytest.approx(160)
    picture(RoundBegun(2, ("amazon",)))
    clock.now = 110
    assert picture.seconds_left() == pytest.approx(130)
    assert "about 2:10 min left" in drawn(picture)
    picture(Ended("completed", "target reached"))
    assert picture.seconds_left() is None


def test_the_time_left_is_known_from_the_first_steps_on(picture: Picture, clock: Clock) -> None:
    picture(Opened("sentiment", "r1", 2))
    picture(RoundBegun(1, ("amazon", "nyt")))
    clock.now = 10
    picture(SiteStep(1, "amazon", 1, 10))
    assert picture.seconds_left() is None, "too early to tell"
    picture(SiteStep(1, "amazon", 5, 10))
    picture(SiteStep(1, "nyt", 5, 10))
    # Training takes 20 s, evaluation a third of 10 s; two rounds of that, of which 10 s are over.
    assert picture.seconds_left() == pytest.approx(2 * (20 + 10 / 3) - 10)


def test_what_zero_shot_took_from_the_first_round_is_not_expected_of_the_others(
    picture: Picture, clock: Clock
) -> None:
    picture(Opened("sentiment", "r1", 2))
    picture(RoundBegun(1, ("amazon",)))
    picture(Evaluating(0, 0, 200))
    clock.now = 40
    picture(Measured(0, {"accuracy": 0.8}))
    clock.now = 60
    picture(SiteStep(1, "amazon", 5, 10))
    # Of 60 s zero-shot took 20: so training takes 80 s alone, and evaluation the 20.
    assert picture.seconds_left() == pytest.approx(2 * 100 - 40)
    clock.now = 120
    picture(Measured(1, {"accuracy": 0.9}))
    picture(RoundOver(1, None))
    assert picture.seconds_left() == pytest.approx(100)


def test_a_wait_for_sites_is_shown_until_it_is_over(picture: Picture) -> None:
    picture(Waiting("waiting for 1 of 2: harbour is preparing its base model"))
    assert "harbour is preparing" in drawn(picture)
    picture(Waiting())
    assert "harbour" not in drawn(picture)


@pytest.mark.parametrize(
    ("milestone", "words"),
    [
        (Prepared("stack", "MinIO"), "stack: MinIO"),
        (Opened("sentiment", "r1", 3, 1), "run r1 of sentiment: at most 3 rounds, 1 of them played before"),
        (RoundBegun(2, ("a", "b")), "round 2 goes to a, b"),
        (SiteDone(2, "a", "failed", "no memory"), "round 2: a failed no memory"),
        (Measured(0, {"accuracy": 0.5}), "zero-shot: accuracy 50.0 %"),
        (RoundOver(2, "models:/x/1"), "round 2 is registered as models:/x/1"),
        (RoundOver(2), "round 2 waits for MLflow"),
        (Ended("completed", "round limit"), "completed: round limit"),
        (SiteStep(1, "a", 1, 2), "round 1: a has done step 1 of 2"),
        (Evaluating(1, 5, 10), ""),
    ],
)
def test_elsewhere_a_milestone_is_a_line(milestone: Milestone, words: str) -> None:
    assert in_words(milestone) == words


def test_a_pipe_gets_lines_and_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("fedllm demo"):
        report(RoundBegun(1, ("a", "b")))
        report(SiteStep(1, "a", 1, 2))
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") <= 1
    report(RoundBegun(2, ("a", "b")))
    assert "round 2" not in capsys.readouterr().err, "nobody watches any more"


def test_a_watcher_that_fails_stops_nothing() -> None:
    def broken(_milestone: Milestone) -> None:
        raise ValueError("no room on the screen")

    with watched_by(broken):
        report(Ended("completed", "round limit"))


def test_durations_are_seconds_and_then_minutes() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 127)] == ["0 s", "59 s", "1:00 min", "2:07 min"]
