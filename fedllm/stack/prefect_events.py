"""Send an event of a review decision to Prefect from outside a flow."""

import os
import time
from typing import TYPE_CHECKING, Any

from fedllm.endpoints.addresses import endpoints
from fedllm.errors import FedllmError
from fedllm.stack.health import PrefectApi

if TYPE_CHECKING:
    from fedllm.review.register import ReviewEvent


_PATIENCE = 10.0  # s; a person waits, and only the event is lost if Prefect does not answer


def prefect_url() -> str | None:
    """Return the URL of the stack's Prefect, else PREFECT_API_URL; None if neither exists."""
    stack = endpoints()
    return stack.prefect_api_url if stack else os.environ.get("PREFECT_API_URL") or None


def send_event(event: "ReviewEvent") -> bool:
    """Send an event to the configured Prefect and return whether it was sent."""
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
