"""Which fields each message has, and what may stand in them: the tables of docs/protocol.md once more."""

import math
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]

KIB, MIB = 1024, 1024 * 1024
LARGEST = {
    f"fedllm.{kind}/1": 256 * KIB for kind in ("head", "card", "answer", "update", "report", "invitation")
} | {"fedllm.roster/1": 4 * MIB, "fedllm.plan/1": 4 * MIB, "fedllm.closed/1": 16 * MIB}


class RefusedError(ValueError):
    """Not what docs/protocol.md describes."""


def _matches(pattern: str) -> Check:
    return lambda found: isinstance(found, str) and re.fullmatch(pattern, found) is not None


def _text(most: int) -> Check:
    return lambda found: isinstance(found, str) and len(found) <= most


def _whole(least: int = 0, most: float = 2**53 - 1) -> Check:
    return lambda found: type(found) is int and least <= found <= most


def _number(above: float = -math.inf, *, least: float = -math.inf, below: float = math.inf) -> Check:
    return lambda found: type(found) in {int, float} and found > above and least <= found < below


def _one_of(*allowed: str) -> Check:
    return lambda found: isinstance(found, str) and found in allowed


def _or_null(check: Check) -> Check:
    return lambda found: found is None or check(found)


def _list(check: Check, most: float = math.inf) -> Check:
    return lambda found: isinstance(found, list) and len(found) <= most and all(map(check, found))


def _map(keys: Check, values: Check) -> Check:
    return lambda found: (
        isinstance(found, dict) and all(map(keys, found)) and all(map(values, found.values()))
    )


def _object(needed: dict[str, Check], spared: dict[str, Check] | None = None) -> Check:
    """An object of exactly these fields; `spared` are those that may be left out."""
    known = needed | (spared or {})
    return lambda found: (
        isinstance(found, dict)
        and needed.keys() <= found.keys() <= known.keys()
        and all(known[name](value) for name, value in found.items())
    )


NAME = RUN = _matches(r"[a-z0-9][a-z0-9-]{0,62}")
SHA = _matches(r"[0-9a-f]{64}")
AGE = _matches(r"age1[0-9a-z]{58}")
COUNT, TEXT, ANY_TEXT = _whole(), _text(2000), _text(10**9)
FINITE = _number()

KEYS = _object({"name": NAME, "verify": SHA, "recipient": AGE})
SEALED = _object(
    {"key": _text(512), "sealed_sha256": SHA, "sealed_bytes": COUNT, "sha256": SHA, "bytes": COUNT}
)
ADAPTER = _object(
    {},
    {
        "method": _one_of("ffa-lora", "lora"),
        "average": _one_of("naive"),
        "rank": _whole(1, 256),
        "alpha": _number(0),
        "targets": _list(ANY_TEXT),
        "layers": lambda found: found == "all" or _list(_whole(-math.inf, math.inf))(found),  # type: ignore[arg-type]
    },
)


def _task_fits(found: dict[str, Any]) -> bool:
    """What docs/protocol.md asks of a task's fields together."""
    kind, fields = found.get("kind", "classification"), found.get("fields", {"text": "", "label": ""})
    if kind == "classification" and (len(found.get("labels", {})) < 2 or "label" not in fields):
        return False
    if kind in {"chat", "summarization"} and "answer" not in fields:
        return False
    wanted = set(re.findall(r"\{(\w+)\}", found.get("template", "{text}")))
    return wanted <= set(fields)


def _local_fits(found: dict[str, Any]) -> bool:
    """`prox_mu` is above 0 for fedprox and for nothing else."""
    proximal = found.get("algorithm", "fedavg") == "fedprox"
    return bool(proximal == (found.get("prox_mu", 0.0) > 0))


TASK_FIELDS = _object(
    {},
    {
        "kind": _one_of("classification", "chat", "summarization", "text"),
        "fields": _map(ANY_TEXT, ANY_TEXT),
        "labels": _map(ANY_TEXT, ANY_TEXT),
        "template": ANY_TEXT,
        "max_length": _whole(8, 8192),
    },
)
LOCAL_FIELDS = _object(
    {},
    {
        "algorithm": _one_of("fedavg", "fedprox"),
        "optimizer": _one_of("adamw", "sgd"),
        "lr": _number(0),
        "schedule": _one_of("constant", "cosine", "linear"),
        "warmup": _whole(0, math.inf),
        "steps": _whole(1, 100_000),
        "batch_size": _whole(1, 4096),
        "prox_mu": _number(least=0),
        "weight_decay": _number(least=0),
        "momentum": _number(least=0, below=1),
        "max_grad_norm": _number(0),
        "precision": _one_of("auto", "bf16", "fp32"),
    },
)


def TASK(found: object) -> bool:  # noqa: N802 - a check like the others
    """A plan's task."""
    return isinstance(found, dict) and TASK_FIELDS(found) and _task_fits(found)


def LOCAL(found: object) -> bool:  # noqa: N802 - a check like the others
    """A plan's local training."""
    return isinstance(found, dict) and LOCAL_FIELDS(found) and _local_fits(found)


PROGRESS = _object({"run": RUN, "round": COUNT, "step": COUNT, "steps": COUNT})
VERDICT = _object(
    {
        "site": NAME,
        "accepted": lambda found: isinstance(found, bool),
        "checks": _map(ANY_TEXT, _one_of("pass", "fail", "not observable")),
        "privacy": TEXT,
    },
    {"reason": TEXT, "norm": _or_null(FINITE)},
)
COUNTED = _object({"site": NAME, "weight": _whole(1, math.inf), "payload": SEALED})

HEAD: dict[str, Check] = {"federation": NAME, "sender": NAME, "receiver": NAME, "roster_version": COUNT}
SPARED: dict[str, Check] = {"run": _or_null(RUN), "round": COUNT}


def _message(kind: str, needed: dict[str, Check], spared: dict[str, Check] | None = None) -> Check:
    return _object(HEAD | {"schema": _one_of(f"fedllm.{kind}/1")} | needed, SPARED | (spared or {}))


MESSAGES = {
    "roster": _message("roster", {"coordinator": KEYS, "sites": _list(KEYS, 10_000)}),
    "head": _message(
        "head",
        {"counter": COUNT, "epoch": COUNT, "state": _one_of("idle", "training")},
        {"plan_sha256": _or_null(SHA)},
    ),
    "plan": _message(
        "plan",
        {
            "epoch": COUNT,
            "rounds": _whole(1, 10_000),
            "deadline": FINITE,
            "seed": COUNT,
            "sites": _list(NAME, 10_000),
            "weights": _map(NAME, COUNT),
            "weighting": _one_of("examples", "work", "equal"),
            "base_sha256": SHA,
            "adapter": ADAPTER,
            "layout_sha256": SHA,
            "frozen_sha256": SHA,
            "model": SEALED,
            "task": TASK,
            "local": LOCAL,
            "most_bytes": COUNT,
            "recipient": AGE,
            "confidentiality": _one_of("plain"),
        },
        {"follows": _or_null(SHA)},
    ),
    "card": _message(
        "card",
        {
            "counter": COUNT,
            "state": _one_of("idle", "training", "stopped"),
            "cpus": COUNT,
            "fedllm": _text(40),
        },
        {"base_sha256": _or_null(SHA), "examples": _or_null(COUNT), "progress": _or_null(PROGRESS)},
    ),
    "answer": _message(
        "answer",
        {"plan_sha256": SHA, "decision": _one_of("accept", "less", "decline")},
        {"steps": COUNT, "reason": TEXT},
    ),
    "update": _message(
        "update",
        {"plan_sha256": SHA},
        {
            "failed": _or_null(TEXT),
            "payload": _or_null(SEALED),
            "steps": COUNT,
            "examples": _or_null(COUNT),
            "loss": _or_null(FINITE),
            "seconds": _or_null(FINITE),
        },
    ),
    "closed": _message("closed", {"plan_sha256": SHA, "counted": _list(COUNTED), "verdicts": _list(VERDICT)}),
    "report": _message("report", {"closed_sha256": SHA, "model": SEALED, "metrics": _map(ANY_TEXT, FINITE)}),
    "invitation": _message(
        "invitation",
        {"coordinator": KEYS, "store_url": TEXT, "region": TEXT},
        {
            "endpoint": _or_null(TEXT),
            "ca": _or_null(_text(20_000)),
            "access_key": _or_null(TEXT),
            "secret_key": _or_null(TEXT),
        },
    ),
}


def check_message(message: object, schema: str) -> None:
    """Refuse what is not a message of `schema`."""
    kind = schema.removeprefix("fedllm.").removesuffix("/1")
    if not MESSAGES[kind](message):
        raise RefusedError(f"no {kind}")
