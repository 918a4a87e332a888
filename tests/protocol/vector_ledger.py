"""A ledger of the test vectors: one chain with every kind of entry, and chains that are refused."""

import copy
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.protocol import independent_privacy as priv
from tests.protocol.independent_privacy import Entry
from tests.protocol.vector_keys import NOTE, PARTIES, drawn

RUN = "20260101-000000-abcd"
DATASET = "reviews-2026"
SEEDS = {  # the site's keys of today and of before, another home's of the same owner, and a stranger's
    "amazon": bytes.fromhex(PARTIES["amazon"]["ed25519_seed"]),
    **{name: drawn(f"sign {name}") for name in ("amazon before", "amazon's other home", "a stranger")},
}
VERIFY = {
    name: Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw().hex()
    for name, seed in SEEDS.items()
}
_SEED_OF = {VERIFY[name]: seed for name, seed in SEEDS.items()}


def privacy() -> dict[str, Any]:
    """A privacy plan in which each field says something."""
    return {
        "sampling_rate": 0.015625,
        "noise_multiplier": 0.8,
        "unit": "person",
        "adjacency": "add-remove",
        "unit_field": "reviewer",
        "max_per_person": 2,
        "epsilon": 8.0,
        "delta": 1e-05,
        "clip": 0.5,
        "rounds": 3,
        "steps": 10,
        "min_honest": 1,
        "sites": {"amazon": {"sampling_rate": 0.03125, "noise_multiplier": 1.0}},
    }


def _context(federation: str, run: str, number: int, plan_sha256: str) -> dict[str, Any]:
    nonce = drawn(f"nonce {federation} {run} {number}", 16).hex()
    return {
        "federation": federation,
        "run": run,
        "round": number,
        "plan_sha256": plan_sha256,
        "nonce": nonce,
    }


def relinked(entries: list[Entry]) -> list[Entry]:
    """The entries signed anew, each by the key that it names and after the one before it."""
    made: list[Entry] = []
    for entry in entries:
        link = {"previous": priv.entry_sha256(made[-1])} if made and entry["seq"] else {}
        made.append(priv.sign_entry(entry | link, _SEED_OF[entry["by"]]))
    return made


def chain() -> list[Entry]:
    """Another federation's training, new keys, another home, and the training of `RUN` up to its round 2."""
    other = "9f" * 32
    mine = priv.privacy_sha256(privacy())
    elsewhere = {"sampling_rate": 0.1, "noise_multiplier": 1.25}
    here = {"sampling_rate": 0.03125, "noise_multiplier": 1.0}
    before, now, home = VERIFY["amazon before"], VERIFY["amazon"], VERIFY["amazon's other home"]
    told: list[Entry] = [
        {"kind": "open", "unit": "person", "by": before, "previous": priv.NOTHING},
        {"kind": "reserve", **elsewhere, "steps": 40, "delta": 1e-06, "by": before}
        | {"context": _context("others", "run-x", 0, other)},
        {"kind": "charge", **elsewhere, "first": 0, "steps": 20, "reservation": 1, "by": before}
        | {"context": _context("others", "run-x", 1, other)},
        {"kind": "rekey", "key": now, "retires": before, "by": before},
        {"kind": "rekey", "key": home, "by": now},
        {"kind": "settle", "steps": 20, "reservation": 1, "by": home}
        | {"context": _context("others", "run-x", 0, other)},
        {"kind": "reserve", **here, "steps": 30, "delta": 1e-05, "by": now}
        | {"context": _context("example", RUN, 0, mine)},
        {"kind": "charge", **here, "first": 0, "steps": 10, "reservation": 6, "by": now}
        | {"context": _context("example", RUN, 1, mine)},
        {"kind": "charge", **here, "first": 0, "steps": 10, "reservation": 6, "by": now}
        | {"context": _context("example", RUN, 2, mine)},
    ]
    return relinked([{"dataset": DATASET, "seq": seq} | entry for seq, entry in enumerate(told)])


def shown(federation: str = "example") -> list[Entry]:
    """The chain as one federation sees it: others' contexts are left out."""
    return [
        entry
        if (entry["context"] or {}).get("federation") in {None, federation}
        else entry | {"context": None}
        for entry in chain()
    ]


def ledger() -> dict[str, object]:
    """Entries with the bytes that are signed, and what is refused, each for one reason.

    A refused chain is shown to who knows the first `known` entries of `shown`: its first `keep`, and `then`.
    """
    published = [
        {
            "entry": entry,
            "statement": priv.statement(entry).decode(),
            "sha256": priv.entry_sha256(entry),
            "signed_by": next(name for name, key in VERIFY.items() if key == entry["by"]),
        }
        for entry in chain()
    ]
    plan = privacy()
    return {
        "note": NOTE,
        "seeds": {name: seed.hex() for name, seed in SEEDS.items()},
        "site": "amazon",
        "privacy": {"plan": plan, "sha256": priv.privacy_sha256(plan)},
        "entries": published,
        "shown": shown(),
        "refused_entries": [{"why": why, "entry": entry} for why, entry in _no_entries()],
        "refused_chains": [_told(why, known, after) for why, known, after in _no_chains()],
    }


def _told(why: str, known: list[Entry], after: list[Entry]) -> dict[str, object]:
    """A refused chain as what it has in common with `shown`, and the rest."""
    whole = shown()
    keep = next(n for n in range(len(whole) + 1) if after[: n + 1] != whole[: n + 1] or n == len(after))
    return {"why": why, "known": len(known), "keep": keep, "then": after[keep:]}


def _no_entries() -> list[tuple[str, Entry]]:
    opening, reserve, charge, rekey, settle = (chain()[seq] for seq in (0, 6, 7, 3, 5))
    told = charge["context"]
    return [
        ("an unknown field", charge | {"note": "x"}),
        ("an unknown kind", charge | {"kind": "refund"}),
        ("a field that its kind has not", opening | {"steps": 1}),
        ("a field of its kind is null", charge | {"first": None}),
        ("a field of its kind is missing", {k: v for k, v in settle.items() if k != "steps"}),
        ("a charge that retires a key", charge | {"retires": "00" * 32}),
        ("a rekey without a key", rekey | {"key": None}),
        ("a reservation of no step", reserve | {"steps": 0}),
        ("a charge of no step", charge | {"steps": 0}),
        ("a sampling rate of 0", reserve | {"sampling_rate": 0}),
        ("a sampling rate above 1", reserve | {"sampling_rate": 1.5}),
        ("no noise", reserve | {"noise_multiplier": 0.0}),
        ("a delta of 1", reserve | {"delta": 1.0}),
        ("another context than was signed", charge | {"context": told | {"round": 9}}),
        ("a context where none was signed", opening | {"context": told}),
        ("a signature in capital letters", charge | {"signature": charge["signature"].upper()}),
    ]


def _no_chains() -> list[tuple[str, list[Entry], list[Entry]]]:
    whole = shown()

    def spoilt(seq: int, *, sign: bool = True, **changes: object) -> list[Entry]:
        made = copy.deepcopy(whole)
        made[seq] |= changes
        return relinked(made) if sign else made

    def changed(edit: Callable[[list[Entry]], object]) -> list[Entry]:
        made = copy.deepcopy(chain())
        edit(made)
        return relinked([entry | {"seq": seq} for seq, entry in enumerate(made)])

    second = chain()[6] | {"seq": 9}
    return [
        ("nothing is shown", [], []),
        ("an entry is missing", [], [*whole[:5], *whole[6:]]),
        ("its beginning is missing", [], whole[4:]),
        ("two entries are swapped", [], [*whole[:7], whole[8], whole[7]]),
        ("a number was changed after it was signed", [], spoilt(7, sign=False, steps=9)),
        ("a signature by a key that the chain does not know", [], spoilt(8, by=VERIFY["a stranger"])),
        ("a signature by a key that was retired", [], spoilt(8, by=VERIFY["amazon before"])),
        ("its newest entry is by another home", [], spoilt(8, by=VERIFY["amazon's other home"])),
        ("a key is retired by another", [], spoilt(4, retires=VERIFY["amazon's other home"])),
        ("an entry of another data set", [], spoilt(6, dataset="other")),
        ("a charge without a reservation", [], spoilt(8, reservation=3)),
        ("a charge on a reservation that was settled", [], spoilt(8, reservation=1, context=None)),
        ("a charge with less noise than was reserved", [], spoilt(8, noise_multiplier=0.5)),
        ("a charge of more steps than are left", [], spoilt(8, steps=21)),
        (
            "a step that is charged twice",
            [],
            relinked([*chain()[:8], chain()[7] | {"seq": 8, "first": 9, "steps": 2}]),
        ),
        ("more steps are given back than are left", [], spoilt(5, steps=21)),
        ("fewer steps are given back than are left", [], spoilt(5, steps=19)),
        ("a second open reservation of one run", [], relinked([*chain(), second])),
        ("a chain that opens twice", [], changed(lambda made: made.insert(3, copy.deepcopy(made[0])))),
        ("a second end, signed by the site too", whole, spoilt(8, steps=9)[7:]),
        ("what follows was built on another chain", whole[:8], spoilt(7, steps=9)[8:]),
    ]
