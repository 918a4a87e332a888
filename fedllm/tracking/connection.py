"""An MLflow client with an explicit server, which notices within seconds that the server is down."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import httpx

from fedllm.errors import RecordRefusedError, TrackingError
from fedllm.secure.trust import read_ca, refuse_unchecked, trusting, why_untrusted

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

STORE_SECONDS = 10.0  # to list a run's artifacts, normally milliseconds
PROBE_SECONDS = 10.0  # a server that shares its cores with a training may be slow
DEAD = frozenset({502, 503, 504})  # from a proxy whose MLflow is down
# The content is wrong, as opposed to password (401, 403), address (404), time-out (408) or rate (429).
REFUSED = frozenset({400, 409, 413, 414, 415, 422})

# Applied only to variables that the user has not set.
MANNERS = {
    # MLflow's defaults retry for minutes; a round must not wait that long.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # stdout is reserved for `--json`, stderr for one line per error.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def connect(uri: str) -> "MlflowClient":
    """Return a client of the tracking and registry server at `uri`, without setting MLflow's globals.

    Raises:
        ConfigError: an environment variable disables certificate checks.
    """
    limit_waits()
    if uri.startswith("https://"):
        refuse_unchecked()
    _set_credentials(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def limit_waits() -> None:
    """Set MLflow's time-outs and quiet output for this process; call it before MLflow is first imported."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)


def _set_credentials(uri: str) -> None:
    """Set the local stack's password and CA in MLflow's variables for its own server and no other.

    MLflow reads these variables for every server it calls.
    """
    from fedllm.endpoints import endpoints

    local = endpoints()
    for name, value in (local.mlflow_credentials() if local else {}).items():
        if local is not None and uri.rstrip("/") == local.mlflow_url:
            os.environ[name] = value
        elif os.environ.get(name) == value:
            del os.environ[name]


def probe(uri: str) -> None:
    """Check that a server is up; any answer of its own counts.

    Raises:
        TrackingError: the server does not answer, or its certificate is not trusted.
    """
    if not uri.startswith(("http://", "https://")):
        return
    ca = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    try:
        answer = httpx.get(
            f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS, verify=trusting(read_ca(ca) if ca else None)
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        if why := why_untrusted(error):
            raise TrackingError(f"MLflow at {uri} is not trusted: {why}") from None
        raise _unreachable(uri, str(error)) from None
    if answer.status_code in DEAD:
        raise _unreachable(uri, f"{answer.status_code} {answer.reason_phrase}")


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Convert every MLflow failure inside the block into a `TrackingError`.

    Raises:
        RecordRefusedError: MLflow is up and refuses the content of a request.
        TrackingError: any other failure, which may be temporary.
    """
    from mlflow.exceptions import MlflowException

    probe(uri)
    try:
        yield
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        if _status(error) in REFUSED:
            raise RecordRefusedError(f"MLflow at {uri} refused the request: {_line(error)}") from error
        raise TrackingError(f"MLflow at {uri} failed: {_line(error)}") from error


def stored(uri: str, ask: Callable[[], T]) -> T:
    """Return the result of a first, small artifact request, within `STORE_SECONDS`.

    MLflow's server retries for minutes while its artifact store is down, and its client waits as long.
    After a time-out the request's thread is abandoned.

    Raises:
        TrackingError: no answer in time.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - re-raised in the waiting thread
            done.set_exception(error)

    Thread(target=run, name="artifacts", daemon=True).start()
    try:
        return done.result(STORE_SECONDS)
    except TimeoutError:
        if done.done():  # raised by `ask` itself
            raise
        raise TrackingError(
            f"MLflow at {uri} answers, but its artifact store did not within {STORE_SECONDS:.0f} s: start "
            "the store (the local one with `fedllm up`), then try again"
        ) from None


def _status(error: Exception) -> int | None:
    """Return an error's HTTP status: MLflow's own, or that of a request for artifacts."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return getattr(getattr(error, "response", None), "status_code", None)


def _unreachable(uri: str, why: str) -> TrackingError:
    return TrackingError(
        f"MLflow at {uri} does not answer ({why}): start it with fedllm up, or set tracking.uri"
    )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} …"  # noqa: PLR2004 - a readable line
