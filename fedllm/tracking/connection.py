"""One MLflow client, explicit about its server, that notices within seconds when nobody answers."""

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

STORE_SECONDS = 10.0  # to list a run's artifacts, which takes milliseconds
PROBE_SECONDS = 10.0  # a server beside a training on the same cores may need some of them
DEAD = frozenset({502, 503, 504})  # a proxy answers, MLflow does not
# The content is at fault; not a password (401, 403), an address (404), time (408) or haste (429).
REFUSED = frozenset({400, 409, 413, 414, 415, 422})

# What the user set stays.
MANNERS = {
    # MLflow's own defaults keep trying for minutes; a round must not wait that long.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # s
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # stdout belongs to `--json`, and stderr to one line an error.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def connect(uri: str) -> "MlflowClient":
    """Make a client of the tracking and registry server at `uri`, without touching MLflow's globals.

    Raises:
        ConfigError: a variable switches the check of certificates off.
    """
    be_brief()
    if uri.startswith("https://"):
        refuse_unchecked()
    _introduce(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def be_brief() -> None:
    """Set MLflow's patience and silence for this process; call it before MLflow's first import."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)


def _introduce(uri: str) -> None:
    """Have the local stack's password and CA in MLflow's variables for its own server, and for no other.

    MLflow takes them from the environment whatever server it calls.
    """
    from fedllm.endpoints import endpoints

    here = endpoints()
    for name, value in (here.mlflow_credentials() if here else {}).items():
        if here is not None and uri.rstrip("/") == here.mlflow_url:
            os.environ[name] = value
        elif os.environ.get(name) == value:
            del os.environ[name]


def probe(uri: str) -> None:
    """Ask a server whether it is there; any answer of its own will do.

    Raises:
        TrackingError: nobody answers, or its certificate is not to be trusted.
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
    """Turn every way in which MLflow can fail inside the block into one `TrackingError`.

    Raises:
        RecordRefusedError: MLflow is there and does not take the content of a request.
        TrackingError: everything else, which may be different later.
    """
    from mlflow.exceptions import MlflowException

    probe(uri)
    try:
        yield
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        if _status(error) in REFUSED:
            raise RecordRefusedError(f"MLflow at {uri} refuses it: {_line(error)}") from error
        raise TrackingError(f"MLflow at {uri} did not do what was asked: {_line(error)}") from error


def stored(uri: str, ask: Callable[[], T]) -> T:
    """What a first, small question about artifacts comes to, within `STORE_SECONDS`.

    MLflow's server asks its artifact store again and again for minutes when that is down, and its client
    waits as long. The thread of a question without an answer is left behind.

    Raises:
        TrackingError: no answer in time.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            done.set_exception(error)

    Thread(target=run, name="artifacts", daemon=True).start()
    try:
        return done.result(STORE_SECONDS)
    except TimeoutError:
        if done.done():  # the question's own
            raise
        raise TrackingError(
            f"MLflow at {uri} answers, and its artifact store does not within {STORE_SECONDS:.0f} s: start "
            "the store (`fedllm up` the local one), then try again"
        ) from None


def _status(error: Exception) -> int | None:
    """The HTTP status that an error stands for: MLflow's own, or of a request to its artifacts."""
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
    return text if len(text) <= 300 else f"{text[:300]} …"  # noqa: PLR2004 - a line that can be read
