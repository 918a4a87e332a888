"""Telling Prefect of a decision from outside a flow; a Prefect that is away costs the event alone."""

import os
import time
from typing import TYPE_CHECKING, Any

from fedllm.endpoints.addresses import endpoints
from fedllm.errors import FedllmError
from fedllm.stack.health import PrefectApi

if TYPE_CHECKING:
    from fedllm.review.register import ReviewEvent


_PATIENCE = 10.0  # s; a person waits, and a Prefect that is away costs the event alone


def prefect_url() -> str | None:
    """The stack's Prefect, else PREFECT_API_URL's; None: there is none."""
    here = endpoints()
    return here.prefect_api_url if here else os.environ.get("PREFECT_API_URL") or None


def tell_prefect(event: "ReviewEvent") -> bool:
    """Send an event to the Prefect that is configured; whether it was sent."""
    url = prefect_url()
    if url is None:
        return False
    body: dict[str, Any] = {
        "occurred": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "event": event.kind,
        "resource": event.resource,
        "related": [],
        "payload": dict(event.payload),
        "id": event.id,
        "follows": None,
    }
    try:
        PrefectApi(url, _PATIENCE).call("/events", [body])
    except FedllmError:
        return False
    return True
