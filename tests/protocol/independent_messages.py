"""Which fields each message has, and what may stand in them: the tables of docs/protocol.md once more."""

import math
import re
from typing import Any

from tests.protocol.independent_checks import (
    AGE,
    COUNT,
    FINITE,
    NAME,
    RUN,
    SHA,
    TEXT,
    Check,
    RefusedError,
    list_of,
    map_of,
    number,
    object_of,
    one_of,
    or_null,
    text,
    whole,
)
from tests.protocol.independent_privacy import ENTRIES, LEDGER_HEAD, PRIVACY

KIB, MIB = 1024, 1024 * 1024
PHASE = ("query", "reply")
LARGEST = {
    f"fedllm.{kind}/1": 256 * KIB for kind in ("head", "card", "answer", "report", "invitation", *PHASE)
} | {f"fedllm.{kind}/1": 4 * MIB for kind in ("roster", "plan", "update")}
LARGEST["fedllm.closed/1"] = 16 * MIB

KEYS = object_of({"name": NAME, "verify": SHA, "recipient": AGE})
SEALED = object_of(
    {"key": text(512), "sealed_sha256": SHA, "sealed_bytes": COUNT, "sha256": SHA, "bytes": COUNT}
)
ADAPTER = object_of(
    {},
    {
        "method": one_of("ffa-lora", "lora", "full"),
        "average": one_of("naive"),
        "rank": whole(1, 256),
        "alpha": number(0),
        "targets": list_of(text(200), 100),
        "layers": lambda found: found == "all" or list_of(whole(0, 999), 1000)(found),  # type: ignore[arg-type]
    },
)


def _task_fits(found: dict[str, Any]) -> bool:
    """What docs/protocol.md asks of a task's fields together."""
    kind, fields = found.get("kind", "classification"), found.get("fields", {"text": "", "label": ""})
    chosen = kind in {"classification", "image"}
    if chosen and (len(found.get("labels", {})) < 2 or "label" not in fields):
        return False
    if kind == "image" and "image" not in fields:
        return False
    if kind in {"chat", "summarization"} and "answer" not in fields:
        return False
    wanted = set(re.findall(r"\{(\w+)\}", found.get("template", "{text}")))
    return wanted <= set(fields)


def _local_fits(found: dict[str, Any]) -> bool:
    """`prox_mu` is above 0 for fedprox and for nothing else."""
    proximal = found.get("algorithm", "fedavg") == "fedprox"
    return bool(proximal == (found.get("prox_mu", 0.0) > 0))


TASK_FIELDS = object_of(
    {},
    {
        "kind": one_of("classification", "chat", "summarization", "text", "image"),
        "fields": map_of(text(200), text(200), 1000),
        "labels": map_of(text(200), text(200), 1000),
        "template": text(20_000),
        "max_length": whole(8, 8192),
    },
)
LOCAL_FIELDS = object_of(
    {},
    {
        "algorithm": one_of("fedavg", "fedprox"),
        "optimizer": one_of("adamw", "sgd"),
        "lr": number(0),
        "schedule": one_of("constant", "cosine", "linear"),
        "warmup": whole(0, math.inf),
        "steps": whole(1, 100_000),
        "batch_size": whole(1, 65_536),
        "prox_mu": number(least=0),
        "weight_decay": number(least=0),
        "momentum": number(least=0, below=1),
        "max_grad_norm": number(0),
        "precision": one_of("auto", "bf16", "fp32"),
    },
)


def TASK(found: object) -> bool:  # noqa: N802 - a check like the others
    """A plan's task."""
    return isinstance(found, dict) and TASK_FIELDS(found) and _task_fits(found)


def LOCAL(found: object) -> bool:  # noqa: N802 - a check like the others
    """A plan's local training."""
    return isinstance(found, dict) and LOCAL_FIELDS(found) and _local_fits(found)


PROGRESS = object_of({"run": RUN, "round": COUNT, "step": COUNT, "steps": COUNT})
VERDICT = object_of(
    {
        "site": NAME,
        "accepted": lambda found: isinstance(found, bool),
        "checks": map_of(text(100), one_of("pass", "fail", "not observable"), 100),
        "privacy": TEXT,
    },
    {
        "reason": TEXT,
        "epsilon": or_null(FINITE),
        "ledger": or_null(LEDGER_HEAD),
        "norm": or_null(FINITE),
    },
)
COUNTED = object_of({"site": NAME, "weight": whole(1, math.inf), "payload": SEALED})

HEAD: dict[str, Check] = {"federation": NAME, "sender": NAME, "receiver": NAME, "roster_version": COUNT}
SPARED: dict[str, Check] = {"run": or_null(RUN), "round": COUNT}


def _message(kind: str, needed: dict[str, Check], spared: dict[str, Check] | None = None) -> Check:
    return object_of(HEAD | {"schema": one_of(f"fedllm.{kind}/1")} | needed, SPARED | (spared or {}))


MESSAGES = {
    "roster": _message("roster", {"coordinator": KEYS, "sites": list_of(KEYS, 10_000)}),
    "head": _message(
        "head",
        {"counter": COUNT, "epoch": COUNT, "state": one_of("idle", "training")},
        {"plan_sha256": or_null(SHA), "phase": or_null(NAME)},
    ),
    "plan": _message(
        "plan",
        {
            "epoch": COUNT,
            "rounds": whole(1, 10_000),
            "deadline": FINITE,
            "seed": COUNT,
            "sites": list_of(NAME, 10_000),
            "weights": map_of(NAME, COUNT, 10_000),
            "weighting": one_of("examples", "work", "equal"),
            "base_sha256": SHA,
            "adapter": ADAPTER,
            "layout_sha256": SHA,
            "frozen_sha256": SHA,
            "model": SEALED,
            "task": TASK,
            "local": LOCAL,
            "most_bytes": COUNT,
            "recipient": AGE,
            "confidentiality": one_of("plain"),
        },
        {
            "follows": or_null(SHA),
            "codec": NAME,
            "privacy": or_null(PRIVACY),
            "ledgers": map_of(NAME, list_of(LEDGER_HEAD, 1000), 10_000),
            "schedule": NAME,
        },
    ),
    **{kind: _message(kind, {"plan_sha256": SHA, "phase": NAME, "body": text(150_000)}) for kind in PHASE},
    "card": _message(
        "card",
        {
            "counter": COUNT,
            "state": one_of("preparing", "idle", "training", "stopped"),
            "cpus": COUNT,
            "fedllm": text(40),
        },
        {
            "base_sha256": or_null(SHA),
            "examples": or_null(COUNT),
            "progress": or_null(PROGRESS),
            "announced": COUNT,
        },
    ),
    "answer": _message(
        "answer",
        {"plan_sha256": SHA, "decision": one_of("accept", "less", "decline")},
        {"steps": COUNT, "reason": TEXT},
    ),
    "update": _message(
        "update",
        {"plan_sha256": SHA},
        {
            "failed": or_null(TEXT),
            "payload": or_null(SEALED),
            "steps": COUNT,
            "examples": or_null(COUNT),
            "loss": or_null(FINITE),
            "seconds": or_null(FINITE),
            "ledger": ENTRIES,
        },
    ),
    "closed": _message(
        "closed",
        {"plan_sha256": SHA, "counted": list_of(COUNTED, 10_000), "verdicts": list_of(VERDICT, 10_000)},
    ),
    "report": _message(
        "report", {"closed_sha256": SHA, "model": SEALED, "metrics": map_of(text(1000), FINITE, 10_000)}
    ),
    "invitation": _message(
        "invitation",
        {"coordinator": KEYS, "store_url": TEXT, "region": TEXT},
        {
            "endpoint": or_null(TEXT),
            "ca": or_null(text(20_000)),
            "access_key": or_null(TEXT),
            "secret_key": or_null(TEXT),
        },
    ),
}


def check_message(message: object, schema: str) -> None:
    """Refuse what is not a message of `schema`."""
    kind = schema.removeprefix("fedllm.").removesuffix("/1")
    if not MESSAGES[kind](message):
        raise RefusedError(f"no {kind}")
