"""Messages of the test vectors that speak of privacy: a plan, a site's update with its ledger, a closing."""

from typing import Any

from tests.protocol import independent_privacy as priv
from tests.protocol.independent_privacy import Entry
from tests.protocol.vector_envelopes import accepted
from tests.protocol.vector_keys import NOTE, PARTIES
from tests.protocol.vector_ledger import DATASET, RUN, privacy, shown

PLACE = {"federation": "example", "run": RUN, "round": 2, "roster_version": 3}
SEEN = 7  # the seq of the head that the coordinator named before round 2


def messages() -> list[dict[str, Any]]:
    """The three in their order, the one's hash in the other."""
    plan = accepted(_plan(), "coordinator")
    update = accepted(update_of(shown()[SEEN + 1 :], str(plan["envelope_sha256"])), "amazon")
    closed = accepted(_closed(str(plan["envelope_sha256"])), "coordinator")
    return [plan, update, closed]


def private() -> dict[str, object]:
    """What is published."""
    return {"note": NOTE, "expected": PLACE, "accepted": messages()}


def head(entry: Entry) -> dict[str, Any]:
    """An entry as a plan and a verdict name it."""
    return {"dataset": DATASET, "seq": entry["seq"], "sha256": priv.entry_sha256(entry)}


def _sealed(key: str) -> dict[str, Any]:
    return {
        "key": key,
        "sealed_sha256": "01" * 32,
        "sealed_bytes": 4000,
        "sha256": "02" * 32,
        "bytes": 3800,
    }


def _plan() -> dict[str, Any]:
    return PLACE | {
        "schema": "fedllm.plan/1",
        "sender": "coordinator",
        "receiver": "everyone",
        "epoch": 4,
        "rounds": 3,
        "follows": "03" * 32,
        "deadline": 1767225600.5,
        "seed": 7,
        "sites": ["amazon", "movies"],
        "weights": {"amazon": 1, "movies": 1},
        "weighting": "equal",
        "base_sha256": "04" * 32,
        "adapter": {
            "method": "full",
            "average": "naive",
            "rank": 8,
            "alpha": 16.0,
            "targets": ["q_proj", "v_proj"],
            "layers": "all",
        },
        "layout_sha256": "05" * 32,
        "frozen_sha256": "06" * 32,
        "model": _sealed(f"example/coordinator/{RUN}/models/{'01' * 32}"),
        "task": {
            "kind": "image",
            "fields": {"image": "image", "label": "digit"},
            "labels": {"0": "0", "1": "1"},
            "template": "{image}",
            "max_length": 128,
        },
        "local": {
            "algorithm": "fedavg",
            "optimizer": "sgd",
            "lr": 0.5,
            "schedule": "constant",
            "warmup": 0,
            "steps": 10,
            "batch_size": 65536,
            "prox_mu": 0.0,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "max_grad_norm": 1.0,
            "precision": "fp32",
        },
        "most_bytes": 8000,
        "recipient": PARTIES["coordinator"]["recipient"],
        "confidentiality": "plain",
        "privacy": privacy(),
        "ledgers": {"amazon": [head(shown()[SEEN])]},
    }


def update_of(entries: list[Entry], plan_sha256: str) -> dict[str, Any]:
    """An update under DP: the ledger, and nothing else that rests on the data."""
    return PLACE | {
        "schema": "fedllm.update/1",
        "sender": "amazon",
        "receiver": "coordinator",
        "plan_sha256": plan_sha256,
        "failed": None,
        "payload": _sealed(f"example/sites/amazon/{RUN}/2/update.bin"),
        "steps": 10,
        "examples": None,
        "loss": None,
        "seconds": None,
        "ledger": entries,
    }


def _closed(plan_sha256: str) -> dict[str, Any]:
    checks = ("signature", "hash", "size", "schema", "norm", "noise", "chain", "events", "accounting")
    told = {"site": "amazon", "accepted": True, "reason": "", "checks": dict.fromkeys(checks, "pass")}
    left_out = {
        "site": "movies",
        "accepted": False,
        "reason": "declined: the policy does not allow it",
        "checks": dict.fromkeys(checks, "not observable"),
        "privacy": "epsilon not observable of 8 at delta 1e-05, by person, add-remove",
        "epsilon": None,
        "ledger": None,
        "norm": None,
    }
    return PLACE | {
        "schema": "fedllm.closed/1",
        "sender": "coordinator",
        "receiver": "everyone",
        "plan_sha256": plan_sha256,
        "counted": [
            {
                "site": "amazon",
                "weight": 1,
                "payload": _sealed(f"example/sites/amazon/{RUN}/2/update.bin"),
            }
        ],
        "verdicts": [
            told
            | {
                "privacy": "epsilon 2.345 of 8 at delta 1e-05, by person, add-remove",
                "epsilon": 2.345,
                "ledger": head(shown()[SEEN + 1]),
                "norm": 0.25,
            },
            left_out,
        ],
    }
