"""A test over the limit says why, or the run fails; a busy machine fails nothing."""

import itertools
import time
from pathlib import Path

import pytest

from tests import long_tests

pytest_plugins = ["pytester"]

LONG = """
import time
import pytest

def test_long():
    time.sleep(0.5)

@pytest.mark.slow("it sleeps")
def test_explained():
    time.sleep(0.5)

@pytest.fixture(scope="module")
def shared():
    time.sleep(0.5)

def test_the_first_of_those_that_share(shared):
    pass
"""
ARGUMENTS = ("-p", "tests.long_tests", "-p", "no:cacheprovider", "-o", "slow_after=0.3", "-o", "markers=slow")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is always quiet."""
    clock = itertools.count()
    monkeypatch.setattr(long_tests, "core_times", lambda: (float(next(clock)), 0.0))


@pytest.mark.usefixtures("alone")
def test_a_long_test_without_a_reason_fails_the_run_and_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LONG)
    done = pytester.runpytest_inprocess(*ARGUMENTS)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=3)
    (line,) = [line for line in done.outlines if "say why" in line]
    assert "::test_long: " in line


@pytest.mark.parametrize("limit", ["0.3", "0.01"])  # below it on a machine of its own, and above it even so
def test_what_a_busy_machine_made_long_is_told_and_fails_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(long_tests, "core_times", lambda: (tick := float(next(clock)), 9 * tick))
    pytester.makepyfile(LONG)
    done = pytester.runpytest_inprocess(*ARGUMENTS, "-o", f"slow_after={limit}")
    assert done.ret == pytest.ExitCode.OK
    done.stdout.fnmatch_lines(["*::test_long: the machine was busy"])


@pytest.mark.usefixtures("alone")
def test_a_test_that_waits_for_other_processes_is_listed_and_fails_the_run_later(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import time

        import pytest

        pytestmark = pytest.mark.servers

        def test_long():
            time.sleep(0.5)

        def test_longer():
            time.sleep(1.2)
        """
    )
    done = pytester.runpytest_inprocess(*ARGUMENTS, "-o", "markers=servers")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["*::test_longer: say why*", "*::test_long: the machine was busy"])


def test_a_process_that_waits_for_its_core_is_seen_to_wait() -> None:
    had, waited = long_tests.core_times()
    begun = time.thread_time()
    while time.thread_time() - begun < 0.1:  # s: the kernel counts by ticks of some milliseconds
        sum(range(1000))
    now_had, now_waited = long_tests.core_times()
    assert now_had > had
    assert now_waited >= waited


def test_the_marker_needs_a_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n\n@pytest.mark.slow\ndef test_it(): pass")
    done = pytester.runpytest_inprocess(*ARGUMENTS)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*test_it is marked slow and does not say why*"])


@pytest.mark.servers  # of xdist: its workers
def test_reports_of_workers_are_judged_as_well(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the plugin is found by its name
    pytester.makepyfile("import time\n\ndef test_long():\n    time.sleep(3)")
    done = pytester.runpytest_subprocess(*ARGUMENTS, "-n", "1")
    done.stdout.fnmatch_lines(["*over 0.3 s and not marked slow*", "*::test_long: *"])
