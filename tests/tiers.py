"""Three tiers: `unit` starts nothing, `servers` starts servers or processes, `stack` needs the whole stack.

A test is `unit` unless its marker or one of its fixtures says otherwise; the higher of the two counts. A
`unit` test that starts a process fails. `sweep` comes on top: it marks the long way through any test.
"""

import multiprocessing.util
import os
import platform
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import pytest

TIERS = ("unit", "servers", "stack")
BY_FIXTURE = {
    "chromium": "servers",
    "docker_compose": "servers",
    "minio_server": "servers",
    "mlflow_uri": "servers",
    "rendered": "servers",  # by kubectl
    "server": "servers",  # a Postgres or a MinIO of the module's own
    "settings": "servers",  # by scripts
    "first_life": "stack",
    "servers": "stack",
    "stack": "stack",
}
# Files and folders whose tests are long for one reason.
LONG = {
    "tests/agent/test_state_machine.py": "random lives of a site, a crash at every boundary",
    "tests/agent/test_hostile_": "every kind of hostile message",
    "tests/coordinator/test_hostile_sites.py": "every kind of hostile message",
    "tests/privacy/test_ledger_schedules.py": "random lives of a ledger",
    "tests/review/": "MLflow is imported, and a crash comes at every call to it",
    "tests/tracking/": "MLflow is imported, and a crash comes at every call to it",
    "tests/data/test_anonymize.py": "spaCy and presidio are loaded",
    "tests/integration/": "whole trainings on a real stack, and what disturbs them",
    "tests/doctor/": "databases, sites and stores that are looked at as they run",
    "tests/stack/": "servers that start, stop and are waited for",
    "tests/infra/": "servers as compose.yaml starts them",
    "tests/backup/": "whole homes, archived and brought back",
}
STARTS: list[tuple[Any, str]] = [
    (subprocess.Popen, "__init__"),
    (os, "fork"),
    (os, "forkpty"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
    (multiprocessing.util, "spawnv_passfds"),
]
STARTED = pytest.StashKey[list[str]]()

# Libraries start these: `uname` once in a process, `fc-list` once in a home, for matplotlib's fonts.
platform.processor()
import_module("matplotlib.font_manager")


def by_tier(few: int, many: int, *, parts: int = 1) -> pytest.MarkDecorator:
    """Parametrise `part` and `count`: `few` cases in one part by default, `many` in `parts` for the sweep."""
    swept = [pytest.param(part, many // parts, marks=pytest.mark.sweep) for part in range(parts)]
    return pytest.mark.parametrize(("part", "count"), [(0, few), *swept])


def tier_of(item: pytest.Item) -> str:
    """The tier that a test's marker or its fixtures give it."""
    told = {name for name in TIERS if item.get_closest_marker(name)}
    if len(told) > 1:
        raise pytest.UsageError(f"{item.nodeid} is marked {' and '.join(sorted(told))}: one tier is enough")
    fixtures = {BY_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in BY_FIXTURE}
    return max(told | fixtures, key=TIERS.index, default="unit")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = tier_of(item)
        if item.get_closest_marker(tier) is None:
            item.add_marker(tier)
        why = next((why for folder, why in LONG.items() if item.nodeid.startswith(folder)), None)
        if why and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.slow(why))
    # What takes long begins first, so that no worker is left with a long file at the end.
    items.sort(key=lambda item: -TIERS.index(tier_of(item)))


@contextmanager
def _no_process(item: pytest.Item) -> Iterator[None]:
    """Let a unit test, or the fixtures set up for it, start no process."""
    if item.get_closest_marker("unit") is None:
        yield
        return
    started = item.stash[STARTED] = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STARTS:
            label = "Popen" if name == "__init__" else f"{owner.__name__}.{name}"
            patch.setattr(owner, name, _refusal(label, started))
        yield


# Not at the teardown: after a worker's last test the servers that others asked for are taken down.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    with _no_process(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    with _no_process(item):
        return (yield)


def _refusal(name: str, started: list[str]) -> Callable[..., NoReturn]:
    def refuse(*arguments: Any, **_: Any) -> NoReturn:  # noqa: ANN401 - whatever it starts a process with
        command = arguments[1] if name == "Popen" and len(arguments) > 1 else ""
        started.append(f"a unit test started a process ({name} {command!s:.60}): mark it servers or stack")
        pytest.fail(started[-1])

    return refuse


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail the test also where the code under test swallowed the refusal, or a thread met it."""
    report = yield
    started = item.stash.get(STARTED, [])
    if started and report.passed:
        report.outcome, report.longrepr = "failed", started[0]
    started.clear()
    return report
