"""Two implementations of one description: what the one takes the other takes, what it refuses it refuses."""

import base64
import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from fedllm.errors import RefusedError
from fedllm.protocol import messages
from fedllm.protocol.messages import Message
from fedllm.secure.envelope import _parsed
from tests.protocol.independent import _loads
from tests.protocol.independent_checks import RefusedError as AlsoRefusedError
from tests.protocol.independent_messages import check_message
from tests.protocol.recorded import ROUNDS, RUN, Recorded
from tests.protocol.vector_ledger import chain
from tests.protocol.vector_private import messages as messages_of_privacy

KINDS: dict[str, type[Message]] = {kind.__name__.lower(): kind for kind in Message.__subclasses__()}

# What is near the edges of the ranges, and what is of another type altogether.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 5, 7, 8, 256, 257, 8192, 8193, 10_000, 10_001, 2**53 - 1, 2**53, 10**30),
    *(1000, 1001, 65_536, 65_537, 10_000_000, 10_000_001),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e308, 1e-320),
    *(
        "",
        "x",
        "A",
        "-x",
        "x-",
        "x" * 63,
        "x" * 64,
        "x\n",
        "../x",
        "ab" * 32,
        "AB" * 32,
        "é" * 2000,
        "y" * 2001,
    ),
    *(
        "age1" + "q" * 58,
        "age1" + "q" * 57,
        "all",
        "naive",
        "fedprox",
        "sgd",
        "text",
        "chat",
        "{text} {other}",
    ),
    *("decline", "idle", "stopped", "work", "not observable", "everyone", "z" * 512, "z" * 513, "w" * 41),
    *("record", "person", "add-remove", "reserve", "rekey", "image", "full", "A.b_c", "u" * 101, "v" * 200),
    *("ab" * 16, "ab" * 64, "v" * 201),
    *(
        [],
        {},
        [1],
        ["x"],
        [[]],
        {"x": 1},
        {"x": "y"},
        {"é": "x"},
        {"a": "1", "b": "2"},
        {"text": "t", "answer": "a"},
        {"image": "i", "label": "l"},
    ),
]


def payload(envelope: bytes) -> Any:  # noqa: ANN401 - JSON
    return json.loads(base64.b64decode(json.loads(envelope)["payload"]))


@pytest.fixture(scope="session")
def honest(federation: Recorded) -> dict[str, Any]:
    """A message of each kind that a real federation said."""
    folder = f"coordinator/{RUN}/rounds/{ROUNDS}"
    found = {kind: payload(federation.last(f"{folder}/{kind}.json")) for kind in ("plan", "closed", "report")}
    found |= {kind: payload(federation.last(f"coordinator/{kind}.json")) for kind in ("roster", "head")}
    site = f"fed/sites/east/{RUN}/{ROUNDS}"
    found |= {kind: payload(federation.sites[f"{site}/{kind}.json"]) for kind in ("answer", "update")}
    found["card"] = payload(
        (federation.folder / "store" / "fed" / "sites" / "east" / "card.json").read_bytes()
    )
    found["card"]["progress"] = {"run": RUN, "round": 1, "step": 1, "steps": 2}
    head = {"federation": "fed", "sender": "coordinator", "receiver": "east", "roster_version": 1}
    keys = found["roster"]["coordinator"]
    found["invitation"] = head | {"schema": "fedllm.invitation/1", "coordinator": keys, "store_url": "s3://b"}
    found["invitation"] |= {"region": "r", "endpoint": None, "ca": None, "access_key": "a", "secret_key": "b"}
    for kind in ("query", "reply"):  # plain has no phase after the training
        place = {"sender": "coordinator", "receiver": "east", "run": RUN, "round": 1, "roster_version": 1}
        body = {"plan_sha256": "0" * 64, "phase": "agree", "body": "{}"}
        found[kind] = {"federation": "fed", "schema": f"fedllm.{kind}/1"} | place | body
    assert found.keys() == KINDS.keys()
    return found


def verdicts(kind: str, data: bytes) -> tuple[bool, bool]:
    """Whether fedllm takes it, and whether the second implementation does."""
    taken = [True, True]
    try:
        _parsed(data, KINDS[kind])
    except RefusedError:
        taken[0] = False
    try:
        check_message(_loads(data), f"fedllm.{kind}/1")
    except AlsoRefusedError:
        taken[1] = False
    return taken[0], taken[1]


def places(message: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Where something stands in a message; of a list, in its first entry."""
    inside: Iterable[tuple[Any, Any]] = message.items() if isinstance(message, dict) else ()
    if isinstance(message, list):
        inside = enumerate(message[:1])
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def variants(message: Any, part: str | None = None) -> Iterator[Any]:  # noqa: ANN401 - JSON
    """The message with one thing put, left out or added somewhere: every thing, everywhere or in one part."""
    for *way, last in (place for place in places(message) if place and part in {None, place[0]}):
        for action in (*VALUES, "leave out", "add"):
            made = copy.deepcopy(message)
            inside = made
            for key in way:
                inside = inside[key]
            if action == "leave out":
                del inside[last]
            elif action == "add" and isinstance(inside, dict):
                inside["extra"] = 1
            elif action == "add":
                inside.append(1)
            else:
                inside[last] = action
            yield made


def test_what_a_federation_says_is_taken_by_both(honest: dict[str, Any]) -> None:
    assert {
        kind: verdicts(kind, json.dumps(said).encode()) for kind, said in honest.items()
    } == dict.fromkeys(KINDS, (True, True))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_message_with_one_thing_changed_is_taken_by_both_or_by_neither(
    honest: dict[str, Any], kind: str
) -> None:
    agree(kind, honest[kind])


def agree(kind: str, message: Any, part: str | None = None) -> None:  # noqa: ANN401 - JSON
    """Both judge every variant alike."""
    told = {True: 0, False: 0}
    for made in variants(message, part):
        first, second = verdicts(kind, json.dumps(made).encode())
        assert first == second, (
            f"fedllm says {first}, docs/protocol.md says {second}: {json.dumps(made)[:2000]}"
        )
        told[first] += 1
    assert min(told.values()) > 20  # both happen


PRIVATE = {vector["message"]["schema"]: vector["message"] for vector in messages_of_privacy()}


@pytest.mark.parametrize("part", ["privacy", "ledgers", "task", "adapter", "local"])
def test_a_plan_with_privacy_and_one_thing_changed_is_taken_by_both_or_by_neither(part: str) -> None:
    agree("plan", PRIVATE["fedllm.plan/1"], part)


@pytest.mark.parametrize("entry", chain(), ids=lambda entry: f"{entry['seq']}-{entry['kind']}")
def test_a_ledger_with_one_thing_changed_is_taken_by_both_or_by_neither(entry: dict[str, Any]) -> None:
    agree("update", PRIVATE["fedllm.update/1"] | {"ledger": [entry]}, "ledger")


def test_a_verdict_on_privacy_with_one_thing_changed_is_taken_by_both_or_by_neither() -> None:
    agree("closed", PRIVATE["fedllm.closed/1"], "verdicts")


def test_every_kind_of_message_is_known_to_both() -> None:
    assert {f"fedllm.{kind}/1" for kind in KINDS} == {
        kind.model_fields["schema_"].default for kind in vars(messages).values() if _is_kind(kind)
    }


def _is_kind(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Message) and found is not Message
