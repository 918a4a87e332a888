"""One MLflow client, explicit about its server, that notices within seconds when nobody answers."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedllm.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_SECONDS = 4.0
DEAD = frozenset({502, 503, 504})  # a proxy answers, MLflow does not

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
    """Make a client of the tracking and registry server at `uri`, without touching MLflow's globals."""
    be_brief()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def be_brief() -> None:
    """Set MLflow's patience and silence for this process; call it before MLflow's first import."""
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)


def probe(uri: str) -> None:
    """Ask a server whether it is there; any answer of its own will do.

    Raises:
        TrackingError: nobody answers.
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310 - http(s)
            return
    except urllib.error.HTTPError as error:
        if error.code in DEAD:
            raise _unreachable(uri, str(error)) from None
    except OSError as error:
        raise _unreachable(uri, str(getattr(error, "reason", error))) from None


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn every way in which MLflow can fail inside the block into one `TrackingError`."""
    from mlflow.exceptions import MlflowException

    probe(uri)
    try:
        yield
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        raise TrackingError(f"MLflow at {uri} did not do what was asked: {_line(error)}") from error


def _unreachable(uri: str, why: str) -> TrackingError:
    return TrackingError(
        f"MLflow at {uri} does not answer ({why}): start it with fedllm up, or set tracking.uri"
    )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} …"  # noqa: PLR2004 - a line that can be read
