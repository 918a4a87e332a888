"""A test that takes more than 20 seconds says why: `@pytest.mark.slow("three whole rounds")`.

After a run each one that does not is listed, and the run fails for it; a sweep is long by nature. What a busy
machine adds does not count: Linux says how long this process had a core and how long it waited for one, and a
test's seconds are divided by the sum of both over the former. Where that is two or more, nothing fails: what
others do to caches and disks is not in it. A test of servers or processes waits for others, whose cores are
not counted here: it is listed as well, and fails the run after three times as long. Fixtures of more than one
test are not part of one test's time.
"""

import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WAITING = 3  # times the limit, for a test that waits for other processes
BUSY = 2  # times as long as on a machine of its own
LIMIT = "slow_after"  # the ini option, in seconds
TIMES = pytest.StashKey[dict[str, tuple[float, float]]]()
SHARED = pytest.StashKey[float]()  # seconds in fixtures of more than one test, so far


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(LIMIT, "seconds after which a test needs the marker slow", default="20")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SHARED] = 0.0
    if not hasattr(config, "workerinput"):  # xdist's reports arrive at the controller
        config.pluginmanager.register(LongTests(float(config.getini(LIMIT))), "unexplained-long-tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("slow")
        if marker is not None and not (marker.args and str(marker.args[0]).strip()):
            raise pytest.UsageError(f'{item.nodeid} is marked slow and does not say why: slow("why")')


def core_times() -> tuple[float, float]:
    """Seconds for which this process' main thread had a core, and waited for one; zeros where unknown."""
    try:
        had, waited, _ = Path("/proc/self/schedstat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(had) / 1e9, int(waited) / 1e9


@contextmanager
def _timed(item: pytest.Item, phase: str) -> Iterator[None]:
    """Note a phase's seconds, and what they would be on a machine with nothing else to do."""
    times = item.stash.setdefault(TIMES, {})
    begun, shared, (had, waited) = time.monotonic(), item.config.stash[SHARED], core_times()
    try:
        yield
    finally:
        seconds = time.monotonic() - begun - (item.config.stash[SHARED] - shared)
        now_had, now_waited = core_times()
        slowdown = 1 + (now_waited - waited) / (now_had - had) if now_had > had else 1.0
        times[phase] = seconds, seconds / slowdown


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with _timed(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _timed(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    begun, shared = time.monotonic(), request.config.stash[SHARED]
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":  # what it asked for meanwhile is in it
            request.config.stash[SHARED] = shared + time.monotonic() - begun


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.seconds = item.stash.get(TIMES, {}).get(report.when or "", (0.0, 0.0))
    return report


class LongTests:
    """Adds up what each test took, and fails the run for those that do not say why."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.times: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self.waiting: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not {"slow", "sweep"} & set(report.keywords):
            took, alone = self.times[report.nodeid]
            more_took, more_alone = report.seconds
            self.times[report.nodeid] = took + more_took, alone + more_alone
            if {"servers", "stack"} & set(report.keywords):
                self.waiting.add(report.nodeid)

    def over(self) -> dict[str, tuple[float, float]]:
        return {test: times for test, times in self.times.items() if times[0] > self.limit}

    def fails(self, test: str) -> bool:
        took, alone = self.times[test]
        limit = self.limit * (WAITING if test in self.waiting else 1)
        return alone > limit and took < BUSY * alone

    def unexplained(self) -> bool:
        return any(self.fails(test) for test in self.over())

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexplained() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        over = self.over()
        if not over:
            return
        terminalreporter.section(f"over {self.limit:g} s and not marked slow", red=self.unexplained())
        for test, (took, alone) in sorted(over.items(), key=lambda found: -found[1][0]):
            why = 'say why: @pytest.mark.slow("...")' if self.fails(test) else "the machine was busy"
            terminalreporter.line(f"{took:.0f} s, {alone:.0f} s with a core of its own: {test}: {why}")
