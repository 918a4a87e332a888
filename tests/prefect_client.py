"""This process as a client of a Prefect: of a stack's, or of the tests' own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from fedllm.endpoints import Endpoints


def speaking_with(stack: Endpoints) -> AbstractContextManager[Any]:
    """Settings with the stack's address and its password."""
    password = stack.passwords.prefect_auth if stack.passwords else None
    return temporary_settings(
        updates={PREFECT_API_URL: stack.prefect_api_url, PREFECT_API_AUTH_STRING: password}
    )


@contextmanager
def own_prefect() -> Iterator[None]:
    """A Prefect server for the tests of one module.

    Prefect's sender of events keeps the server that it began with: one left by an earlier module would send
    this module's events, the ends of task runs among them, to a server that is gone.
    """
    EventsWorker.drain_all()
    with prefect_test_harness(server_startup_timeout=480):
        yield
