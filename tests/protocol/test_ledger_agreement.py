"""Two implementations of the ledger's rules: every chain that is signed and linked well is judged alike.

The signatures are made anew after each change, so that a rule decides and not the hash.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from fedllm.errors import LedgerError
from fedllm.privacy.chain import verify_chain
from fedllm.protocol.entry import LedgerEntry
from tests.protocol import independent_privacy as priv
from tests.protocol.independent_checks import RefusedError
from tests.protocol.independent_ledger import read_chain
from tests.protocol.vector_ledger import VERIFY, chain, relinked, shown

Said = dict[str, Any]
NOW = VERIFY["amazon"]
CHANGES: dict[str, list[Any]] = {
    "dataset": ["other"],
    "unit": ["record", "site"],
    "sampling_rate": [0.03125, 0.1, 1],
    "noise_multiplier": [1.0, 1.25, 9.0],
    "steps": [1, 9, 10, 11, 19, 20, 21, 30, 40, 2**53 - 1],
    "first": [0, 1, 9, 10, 2**53 - 1],
    "delta": [1e-6, 0.5],
    "reservation": [0, 1, 5, 6, 7, 99],
    "key": [*VERIFY.values()],
    "retires": [None, *VERIFY.values()],
    "by": [*VERIFY.values()],
    "context": [None],
}
CONTEXTS: dict[str, list[Any]] = {"federation": ["example", "others"], "round": [0, 1, 2, 7]}


def changed(entry: Said) -> Iterator[Said]:
    """An entry with one field, or one of its context, as another one might have it."""
    for name, values in CHANGES.items():
        if entry.get(name) is not None:
            yield from (entry | {name: value} for value in values)
    if told := entry["context"]:
        for name, values in CONTEXTS.items():
            yield from (entry | {"context": told | {name: value}} for value in values)
        yield from (
            entry | {"context": told | {"federation": other["federation"], "run": other["run"]}}
            for other in ({"federation": "others", "run": "run-x"}, {"federation": "example", "run": "run-y"})
        )


def chains(whole: list[Said]) -> Iterator[list[Said]]:
    """Every entry changed, left out, or there once more at every later place."""
    for at, entry in enumerate(whole):
        for made in changed(entry):
            yield [*whole[:at], made, *whole[at + 1 :]]
        yield whole[:at] + whole[at + 1 :]
        for later in range(at + 1, len(whole) + 1):
            yield [*whole[:later], entry, *whole[later:]]
        yield whole[:at]


def judged(entries: list[Said], known: list[Said], verify: str) -> tuple[bool, bool]:
    """Whether fedllm takes a chain, and whether the second implementation does."""
    taken = [True, True]
    try:
        theirs = [LedgerEntry.model_validate_json(json.dumps(said)) for said in (*known, *entries)]
        verify_chain(theirs[len(known) :], verify, theirs[: len(known)])
    except (LedgerError, ValueError):
        taken[0] = False
    try:
        read_chain(entries, verify, known)
    except RefusedError:
        taken[1] = False
    return taken[0], taken[1]


@pytest.mark.parametrize("whole", [chain(), shown(), shown("nobody")], ids=["owner", "example", "nobody"])
def test_a_chain_with_one_thing_changed_and_signed_anew_is_taken_by_both_or_by_neither(
    whole: list[Said],
) -> None:
    told = {True: 0, False: 0}
    for made in chains(whole):
        entries = relinked([copy.deepcopy(said) | {"seq": seq} for seq, said in enumerate(made)])
        first, second = judged(entries, [], NOW)
        assert first == second, (
            f"fedllm says {first}, docs/protocol.md {second}: {json.dumps(entries)[:3000]}"
        )
        told[first] += 1
    assert min(told.values()) > 20  # both happen


@pytest.mark.parametrize("seen", [1, 7, 8])
def test_what_was_shown_before_must_come_again_as_it_was(seen: int) -> None:
    whole = shown()
    for at in range(len(whole)):
        for made in changed(whole[at]):
            forked = relinked([*whole[:at], made, *whole[at + 1 :]])
            for begin in (0, seen - 1, seen):
                first, second = judged(forked[begin:], whole[:seen], NOW)
                assert first == second
                before = forked[:seen]
                if [priv.entry_sha256(said) for said in before] != list(map(priv.entry_sha256, whole[:seen])):
                    assert not first


def test_the_newest_entry_must_be_signed_by_the_sites_own_key() -> None:
    for name, key in VERIFY.items():
        assert judged(shown(), [], key) == ((name == "amazon",) * 2)
        assert judged(shown()[8:], shown()[:8], key) == ((name == "amazon",) * 2)
