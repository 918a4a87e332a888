"""What is shown of a log when its server has failed."""

from pathlib import Path

from fedllm.stack.log_tail import last_error

PREFECTS = """\
Discovered type 'process' for work pool 'fedllm'.
Traceback (most recent call last):
  File "runner.py", line 1655, in __aenter__
    self._tmp_dir.mkdir()

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "utilities.py", line 37, in async_wrapper
    return await fn(*args, **kwargs)
           ^^^^^^^^^^^^^^^^^^^^^^^^^
PermissionError: [Errno 13] Permission denied: '/tmp/runner_storage'
An exception occurred.
"""


def test_of_a_traceback_its_exception_is_shown_and_not_what_follows(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(PREFECTS)
    assert (
        last_error(log) == f"PermissionError: [Errno 13] Permission denied: '/tmp/runner_storage' (see {log})"
    )


def test_a_server_that_went_on_after_a_traceback_has_its_last_line_shown(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text(PREFECTS + "started\n" * 5 + "  the port is taken  \n")
    assert last_error(log) == f"the port is taken (see {log})"


def test_a_traceback_that_was_cut_off_and_an_empty_log_are_shown_as_they_are(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("Traceback (most recent call last):\n  File 'a'\n")
    assert last_error(log) == f"File 'a' (see {log})"
    log.write_text("\n")
    assert last_error(log) == f"no output (see {log})"
    assert last_error(tmp_path / "none") == f"no output (see {tmp_path / 'none'})"


def test_words_of_an_earlier_life_are_not_shown(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("finished\n")
    written = log.stat().st_mtime
    assert last_error(log, written - 1) == f"finished (see {log})"
    assert last_error(log, written + 1) == f"no output (see {log})"
