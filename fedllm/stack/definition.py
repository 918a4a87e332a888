"""Build an automation as Prefect's API takes it, with a hash that shows a changed definition."""

import hashlib
import json
from typing import Any

TAG = "fedllm"  # of deployments, their runs, and automations
FEDERATION = "federation:"  # prefix of the tag that names a deployment's federation


def automation(
    name: str,
    purpose: str,
    trigger: dict[str, Any],
    actions: list[dict[str, Any]],
    *,
    enabled: bool = True,
) -> dict[str, Any]:
    """Build an automation.

    Args:
        name: identifies it in Prefect.
        purpose: a sentence for its page.
        trigger: overrides of the default trigger: one event about one flow run.
        actions: Prefect's actions.
        enabled: whether it is on at first.
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
