"""A test's tier is its marker's or its fixtures', and a unit test starts nothing."""

import pytest

from tests.tiers import TIERS

pytest_plugins = ["pytester"]

ARGUMENTS = ("-p", "tests.tiers", "-p", "no:cacheprovider", "-o", "markers=unit\nservers\nstack\nsweep")


def run(pytester: pytest.Pytester, text: str, *more: str) -> pytest.RunResult:
    pytester.makepyfile(f"import os, subprocess, threading\nimport multiprocessing\nimport pytest\n\n{text}")
    return pytester.runpytest_inprocess(*ARGUMENTS, *more)


@pytest.mark.parametrize(
    "start",
    [
        "subprocess.run(['true'])",
        "os.fork()",
        "os.system('true')",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "multiprocessing.get_context('fork').Process(target=print).start()",
        "multiprocessing.get_context('spawn').Process(target=print).start()",
    ],
)
def test_a_unit_test_that_starts_a_process_fails_and_learns_its_marker(
    pytester: pytest.Pytester, start: str
) -> None:
    done = run(pytester, f"def test_it(): {start}")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*a unit test started a process (*): mark it servers or stack"])


def test_it_fails_also_where_the_refusal_is_swallowed(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        "@pytest.mark.filterwarnings('ignore')\n"
        "def test_it():\n"
        "    thread = threading.Thread(target=lambda: subprocess.run(['true']))\n"
        "    thread.start()\n"
        "    thread.join()",
    )
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*a unit test started a process (Popen *): mark it servers or stack"])


def test_what_a_fixture_of_the_session_starts_counts_as_well(pytester: pytest.Pytester) -> None:
    text = "@pytest.fixture(scope='session')\ndef made(): subprocess.run(['true'])\ndef test_it(made): pass"
    run(pytester, text).assert_outcomes(errors=1)


@pytest.mark.servers
def test_a_test_of_servers_may_start_them(pytester: pytest.Pytester) -> None:
    run(pytester, "@pytest.mark.servers\ndef test_it(): subprocess.run(['true'])").assert_outcomes(passed=1)


TWO = """
@pytest.fixture
def minio_server(): pass

@pytest.fixture
def bucket(minio_server): pass

def test_plain(): pass

def test_by_fixture(bucket): pass

@pytest.mark.stack
def test_by_both(bucket): pass
"""


@pytest.mark.parametrize("tier", TIERS)
def test_every_test_has_one_tier(pytester: pytest.Pytester, tier: str) -> None:
    run(pytester, TWO, "-m", tier).assert_outcomes(passed=1, deselected=2)


def test_two_tiers_are_one_too_many(pytester: pytest.Pytester) -> None:
    done = run(pytester, "@pytest.mark.stack\n@pytest.mark.servers\ndef test_it(): pass")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*is marked servers and stack: one tier is enough"])
