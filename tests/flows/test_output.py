"""What a flow's log says of an error: our own in one line, every other with its traceback."""

import io
import logging
from collections.abc import Iterator

import pytest

from fedllm.errors import ConfigError
from flows.output import log_errors_in_one_line


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What Prefect's logger of flow runs writes from now on."""
    monkeypatch.delenv("FEDLLM_DEBUG", raising=False)
    out, logger = io.StringIO(), logging.getLogger("prefect.flow_runs")
    handler, before = logging.StreamHandler(out), list(logger.filters)
    monkeypatch.setattr(logger, "disabled", False)
    logger.filters.clear()  # a flow run in this process may have left ours
    logger.addHandler(handler)
    yield out
    logger.removeHandler(handler)
    logger.filters[:] = before


def failed(error: Exception) -> None:
    message = "Encountered exception during execution: %r"
    logging.getLogger("prefect.flow_runs").error(message, error, exc_info=error)


def test_our_own_error_is_one_line(log: io.StringIO) -> None:
    log_errors_in_one_line()
    log_errors_in_one_line()
    failed(ConfigError("not in the roster of harbours: nobody"))
    assert log.getvalue() == "not in the roster of harbours: nobody\n"


def test_any_other_error_keeps_its_traceback(log: io.StringIO) -> None:
    log_errors_in_one_line()
    failed(ZeroDivisionError("1 / 0"))
    assert log.getvalue().startswith("Encountered exception during execution: ZeroDivisionError")
    assert log.getvalue().count("\n") > 1


def test_with_debug_ours_keeps_it_as_well(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_DEBUG", "1")
    log_errors_in_one_line()
    failed(ConfigError("not in the roster"))
    assert log.getvalue().count("\n") > 1
