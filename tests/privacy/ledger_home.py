"""A site's ledger in a test's own folder, and short words for what is done with it."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, create_engine

from fedllm.privacy.accounting import Event
from fedllm.privacy.chain import LedgerEntry
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.protocol.terms import Unit
from fedllm.secure.identity import Identity

DATA = "ward-7"
PLAN = "a" * 64
CHEAP = Event(0.01, 4.0, 100)  # epsilon 0.1: budgets are not what most tests are about
WIDE = Limits(8.0, 1e-5)
# Thousands of short lives would wear a disk out, and a test does not lose its power.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - folders of their own are made there


@cache
def who(name: str) -> Identity:
    """A party's signing key; the ledger needs no other."""
    signing = Ed25519PrivateKey.generate()
    public = SimpleNamespace(name=name, verify=signing.public_key().public_bytes_raw().hex())
    return cast("Identity", SimpleNamespace(name=name, signing=signing, public=public))


ME = who("amazon")
MINE = ME.public.verify


def reserve(  # noqa: PLR0913 - as the ledger's own
    ledger: Ledger,
    run: str = "run-1",
    *,
    federation: str = "fed",
    plan: str = PLAN,
    event: Event = CHEAP,
    limit: Limits = WIDE,
    unit: Unit = "record",
    dataset: str = DATA,
) -> LedgerEntry:
    return ledger.reserve(
        dataset, unit, federation=federation, run=run, plan_sha256=plan, event=event, delta=1e-5, limit=limit
    )


def charge(  # noqa: PLR0913 - as the ledger's own
    ledger: Ledger,
    number: int,
    *,
    run: str = "run-1",
    federation: str = "fed",
    first: int = 0,
    steps: int = 10,
    dataset: str = DATA,
) -> LedgerEntry:
    return ledger.charge(dataset, federation=federation, run=run, round=number, first=first, steps=steps)


def trained(ledger: Ledger, rounds: int = 3, **named: Any) -> list[LedgerEntry]:  # noqa: ANN401 - as `reserve`
    """A training's entries."""
    reserve(ledger, **named)
    for number in range(1, rounds + 1):
        charge(ledger, number, **{k: v for k, v in named.items() if k in {"run", "federation", "dataset"}})
    return ledger.entries(named.get("dataset", DATA), show=None)


def ledger_at(path: Path, identity: Identity = ME, retired: Sequence[Identity] = ()) -> Ledger:
    return Ledger(path, identity, retired)


def tamper(path: Path, statement: str, *values: object) -> int:
    """Change the file behind the ledger's back; how many rows."""
    with sqlite3.connect(path) as database:
        changed = database.execute(statement, values).rowcount
    database.close()
    return changed


_shared = create_engine("sqlite://")


def quick_engine(url: str) -> Engine:
    """As `create_engine`, without compiling each statement anew for each of thousands of databases."""
    engine = create_engine(url)
    engine.dialect, engine._compiled_cache = _shared.dialect, _shared._compiled_cache
    return engine
