"""Automations that answer a federation's own events; each does without a notification block.

They pause or run deployments. To be told by Slack or e-mail as well, add Prefect's "Send a notification" to
one of them: it stays, as everything that its owner changes.
"""

from collections.abc import Mapping
from typing import Any

from fedllm.stack.definition import FEDERATION, automation

BUDGET = "fedllm: pause the schedule when a privacy budget is nearly spent"
NEW_DATA = "fedllm: play a round when enough sites have new data"
SILENT_SITE = "fedllm: note a silent site"
REFUSED = "fedllm: pause the schedule when a review refuses a version"

REACTIONS = (BUDGET, NEW_DATA, SILENT_SITE, REFUSED)
OFF_AT_FIRST = (NEW_DATA, REFUSED)  # what starts work, or stops it for a reason that is no danger

_TRAINING, _ROUND = "federated-training", "federated-round"
_SCHEDULED = "scheduled"  # the tag of deployments that run by themselves
_AGAIN = 10.0  # s in which the same event counts once: Prefect may deliver one twice

# The run that the event names is gone on with; null begins a new one.
_NAMED_RUN = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.payload.run | tojson }}"},
}


def reaction_name(reaction: str, federation: str) -> str:
    """The name of one federation's automation: another federation of the same Prefect has its own."""
    return f"{reaction} ({federation})"


def reactions(federation: str, deployments: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The automations of one federation, as Prefect's API takes them.

    Args:
        federation: whose events they answer.
        deployments: Prefect's, by `flow/name`. Only the federation's own are acted on, by their tag; what has
            no deployment to act on is left out.
    """
    own = {
        name: entry
        for name, entry in sorted(deployments.items())
        if f"{FEDERATION}{federation}" in entry["tags"]
    }
    scheduled = [
        entry["id"]
        for name, entry in own.items()
        if name.startswith(f"{_TRAINING}/") and _SCHEDULED in entry["tags"]
    ]
    pause = [_act("pause-deployment", found) for found in scheduled]
    rounds = [entry["id"] for name, entry in own.items() if name.startswith(f"{_ROUND}/")]
    run = [_act("run-deployment", found, parameters={"run_id": _NAMED_RUN}) for found in rounds[:1]]
    found = [
        (BUDGET, "fedllm.budget.low", pause, "A training wants more rounds than its privacy plan paid for."),
        (REFUSED, "fedllm.review.refused", pause, "Nothing more is trained on a refused line unasked."),
        (NEW_DATA, "fedllm.federation.new-data", run, "The flow site-watch counts different sites."),
        (SILENT_SITE, "fedllm.site.silent", [{"type": "do-nothing"}], "Add a notification to be told."),
    ]
    return [
        automation(
            reaction_name(name, federation),
            purpose,
            _trigger(federation, event),
            actions,
            enabled=name not in OFF_AT_FIRST,
        )
        for name, event, actions, purpose in found
        if actions
    ]


def _trigger(federation: str, event: str) -> dict[str, Any]:
    silent = event == "fedllm.site.silent"
    return {
        "expect": [event],
        "match": {"prefect.resource.id": f"fedllm.federation.{federation}"},
        "for_each": ["related:fedllm-site:prefect.resource.id"] if silent else ["prefect.resource.id"],
        "posture": "Reactive",
        "within": _AGAIN,
    }


def _act(kind: str, deployment: str, **more: object) -> dict[str, Any]:
    return {"type": kind, "source": "selected", "deployment_id": deployment, **more}
