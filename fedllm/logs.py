"""Logs: text lines, or with `FEDLLM_LOG=json` one JSON object per line on stderr, for a log collector.

An object has `time` (RFC 3339, UTC), `level`, `logger`, `message`, and `federation`, `run`, `round`, `site`
if they are known. Exceptions appear with their type and stack positions, without text or source lines, also
as arguments of a message: the text of a training error may quote a record, and JSON logs are sent elsewhere.
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

# Settings for libraries that write to the terminal when they are imported.
MANNERS = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}

_about: ContextVar[Mapping[str, object]] = ContextVar("about", default={})  # noqa: B039 - never changed in place


@contextmanager
def about(**names: object) -> Iterator[None]:
    """Add fields such as `run="…", round=3` to every log line of this block."""
    token = _about.set({**_about.get(), **names})
    try:
        yield
    finally:
        _about.reset(token)


def wants_json() -> bool:
    """Return whether FEDLLM_LOG asks for JSON; raise `ConfigError` if its value is invalid."""
    form = os.environ.get(VARIABLE, "")
    if form not in {"", "text", "json"}:
        raise ConfigError(f"{VARIABLE}={one_line(form)}: use json or text")
    return form == "json"


def quiet_libraries() -> None:
    """Turn off the progress bars and messages of libraries; call this before they are imported."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)


def log_as_asked(path: Path | None = None) -> bool:
    """With FEDLLM_LOG=json, replace all terminal log handlers of this process by one that writes JSON.

    Call it again after a library has set up its own logging.

    Args:
        path: a file for the log, instead of stderr.

    Returns:
        Whether the log is JSON.
    """
    if not wants_json():
        return False
    quiet_libraries()
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter())
    loggers = [logging.getLogger(), *_loggers()]
    for logger in loggers:
        replaced = [old for old in logger.handlers if _is_terminal(old)]
        for old in replaced:
            logger.removeHandler(old)
        if replaced and not logger.propagate:
            logger.addHandler(handler)
    logging.getLogger().addHandler(handler)
    logging.getLogger("fedllm").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    return True


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the JSON fields of a log record."""
    created = datetime.fromtimestamp(record.created, UTC)
    values: dict[str, Any] = {
        "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": _message(record),
        **_about.get(),
    }
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        values["error"] = type(error).__name__
        if _quotes_nothing(error):
            values["reason"] = one_line(str(error))
        values["stack"] = [
            f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
    return values


def _message(record: logging.LogRecord) -> str:
    """Return the message, with the type instead of an exception whose text may quote training data."""
    safe, args = copy.copy(record), record.args
    safe.msg = _safe(record.msg)
    if isinstance(args, Mapping):
        safe.args = {name: _safe(value) for name, value in args.items()}
    elif args:
        safe.args = tuple(_safe(value) for value in args)
    return safe.getMessage()


def _safe(value: Any) -> Any:  # noqa: ANN401 - any argument of a log call
    return type(value).__name__ if isinstance(value, BaseException) and not _quotes_nothing(value) else value


def _quotes_nothing(error: BaseException) -> bool:
    """Return whether an error's text never quotes a training record."""
    return isinstance(error, FedllmError) and not isinstance(error, DataError)


def _formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class OneObject(JsonFormatter):
        """Formats only `fields`: a library's extra attributes may hold anything."""

        def add_fields(
            self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
        ) -> None:
            del message_dict  # it holds the exception's text
            log_data.update(fields(record))

    return OneObject(json_ensure_ascii=False)


def _loggers() -> list[logging.Logger]:
    entries = logging.root.manager.loggerDict.values()
    return [entry for entry in entries if isinstance(entry, logging.Logger)]


def _is_terminal(handler: logging.Handler) -> bool:
    """Return whether a handler writes to the terminal; this includes our own from an earlier call."""
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
