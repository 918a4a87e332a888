"""Prefect automations that react to a federation's events; none needs a notification block.

They pause or run deployments. For messages by Slack or e-mail, add Prefect's "Send a notification" to one of
them; changes of its owner are kept.
"""

from collections.abc import Mapping
from typing import Any

from fedllm.stack.definition import FEDERATION, automation

BUDGET = "fedllm: pause the schedule when a privacy budget is nearly spent"
NEW_DATA = "fedllm: play a round when enough sites have new data"
SILENT_SITE = "fedllm: note a silent site"
REFUSED = "fedllm: pause the schedule when a review refuses a version"

REACTIONS = (BUDGET, NEW_DATA, SILENT_SITE, REFUSED)
OFF_AT_FIRST = (NEW_DATA, REFUSED)  # these start work, or stop it without a danger

_TRAINING, _ROUND = "federated-training", "federated-round"
_SCHEDULED = "scheduled"  # the tag of deployments that run by themselves
_AGAIN = 10.0  # s in which the same event counts once: Prefect may deliver it twice

# Continues the run that the event names; null begins a new one.
_NAMED_RUN = {
    "__prefect_kind": "json",
    "value": {"__prefect_kind": "jinja", "template": "{{ event.payload.run | tojson }}"},
}


def reaction_name(reaction: str, federation: str) -> str:
    """Return the name of a federation's automation; each federation of a Prefect has its own."""
    return f"{reaction} ({federation})"


def reactions(federation: str, deployments: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the automations of a federation as Prefect's API takes them.

    Args:
        federation: whose events they react to.
        deployments: Prefect's, by `flow/name`. The automations act on those with the federation's tag; one
            without any deployment to act on is left out.
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
    pause = [_act("pause-deployment", deployment) for deployment in scheduled]
    rounds = [entry["id"] for name, entry in own.items() if name.startswith(f"{_ROUND}/")]
    run = [_act("run-deployment", first, parameters={"run_id": _NAMED_RUN}) for first in rounds[:1]]
    table = [
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
        for name, event, actions, purpose in table
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
