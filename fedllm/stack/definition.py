"""An automation as Prefect's API takes it, with a mark by which a changed one is told."""

import hashlib
import json
from typing import Any

TAG = "fedllm"  # of the deployments, and so of their runs; and of the automations
FEDERATION = "federation:"  # begins the tag of a deployment that names its federation


def automation(
    name: str,
    purpose: str,
    trigger: dict[str, Any],
    actions: list[dict[str, Any]],
    *,
    enabled: bool = True,
) -> dict[str, Any]:
    """Put an automation together.

    Args:
        name: by which it is found again.
        purpose: a sentence for the page that shows it.
        trigger: what differs from one event about one flow run.
        actions: what is done.
        enabled: whether it acts before anybody says so.
    """
    body: dict[str, Any] = {
        "name": name,
        "tags": [TAG],
        "trigger": {
            "type": "event",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "for_each": ["prefect.resource.id"],
            "threshold": 1,
            **trigger,
        },
        "actions": actions,
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    advice = "Pause it to do without." if enabled else "Off until somebody switches it on."
    return {**body, "enabled": enabled, "description": f"{purpose} {advice} [{digest}]"}
