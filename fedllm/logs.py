"""Logs: lines for people, or with `FEDLLM_LOG=json` one JSON object a line on stderr, for a log collector.

An object has `time` (RFC 3339, UTC), `level`, `logger`, `message`, and `federation`, `run`, `round`, `site`
where they are known. Of an exception it tells the type and the places, never its text or a line of code, also
where it is an argument of the message: what training says when it fails may quote a record, and JSON is meant
to be sent elsewhere.
"""

import copy
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedllm.errors import ConfigError, DataError, FedllmError
from fedllm.text import one_line

VARIABLE = "FEDLLM_LOG"

# Of libraries that write to the terminal by themselves when they are imported.
MANNERS = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}

_about: ContextVar[Mapping[str, object]] = ContextVar("about", default={})  # noqa: B039 - never changed in place


@contextmanager
def about(**names: object) -> Iterator[None]:
    """Say in every line of this block what it is about, such as `run="…", round=3`."""
    token = _about.set({**_about.get(), **names})
    try:
        yield
    finally:
        _about.reset(token)


def wants_json() -> bool:
    """Whether logs are to be JSON. Raises `ConfigError` for a value of FEDLLM_LOG that has no meaning."""
    asked = os.environ.get(VARIABLE, "")
    if asked not in {"", "text", "json"}:
        raise ConfigError(f"{VARIABLE}={one_line(asked)}: use json or text")
    return asked == "json"


def quiet_libraries() -> None:
    """Keep the bars and remarks of libraries off the terminal. Call it before they are imported."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)


def log_as_asked(path: Path | None = None) -> bool:
    """With FEDLLM_LOG=json, turn whatever this process logs to its terminal into JSON; else change nothing.

    Call it again after a library has set its own logging up.

    Args:
        path: a file for the log, instead of stderr.

    Returns:
        Whether the log is JSON now.
    """
    if not wants_json():
        return False
    quiet_libraries()
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter())
    known = [logging.getLogger(), *_loggers()]
    for logger in known:
        silenced = [one for one in logger.handlers if _is_terminal(one)]
        for one in silenced:
            logger.removeHandler(one)
        if silenced and not logger.propagate:
            logger.addHandler(handler)
    logging.getLogger().addHandler(handler)
    logging.getLogger("fedllm").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    return True


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is told of one record."""
    at = datetime.fromtimestamp(record.created, UTC)
    told: dict[str, Any] = {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
        **_about.get(),
    }
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        told["error"] = type(error).__name__
        if _quotes_nothing(error):
            told["reason"] = one_line(str(error))
        told["stack"] = [
            f"{Path(at.filename).name}:{at.lineno} {at.name}"
            for at in traceback.extract_tb(error.__traceback__)
        ]
    return told


def _message(record: logging.LogRecord) -> str:
    """A record's line, in which an exception that may quote a record stands as its type."""
    told, given = copy.copy(record), record.args
    told.msg = _named(record.msg)
    if isinstance(given, Mapping):
        told.args = {name: _named(one) for name, one in given.items()}
    elif given:
        told.args = tuple(_named(one) for one in given)
    return told.getMessage()


def _named(given: Any) -> Any:  # noqa: ANN401 - whatever is logged
    return type(given).__name__ if isinstance(given, BaseException) and not _quotes_nothing(given) else given


def _quotes_nothing(error: BaseException) -> bool:
    """Whether an error speaks of messages and settings alone, never of a record."""
    return isinstance(error, FedllmError) and not isinstance(error, DataError)


def _formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class OneObject(JsonFormatter):
        """Tells `fields` and nothing else: a library's extras may hold anything."""

        def add_fields(
            self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
        ) -> None:
            del message_dict  # it holds the exception's text
            log_data.update(fields(record))

    return OneObject(json_ensure_ascii=False)


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [one for one in known if isinstance(one, logging.Logger)]


def _is_terminal(handler: logging.Handler) -> bool:
    """Whether a handler writes where people read: also one of ours from before, which a new one replaces."""
    stream = getattr(handler, "stream", None)
    return isinstance(handler, logging.StreamHandler) and stream in {
        sys.stderr,
        sys.stdout,
        sys.__stderr__,
        sys.__stdout__,
    }


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:  # noqa: ANN401 - sys.excepthook's
    logging.getLogger("fedllm").critical("this process ends", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        error = args.exc_value
        logging.getLogger("fedllm").error("a thread ends", exc_info=(type(error), error, args.exc_traceback))
