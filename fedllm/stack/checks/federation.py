"""What a coordinator left lying: the lease, releases, refusals, sites that are silent, keys that are open."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fedllm.config.home import fedllm_home
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.stack.checks.databases import reading_engine, with_driver
from fedllm.stack.checks.finding import Finding, fail, ok, warn

if TYPE_CHECKING:
    from fedllm.config import FederationConfig
    from fedllm.coordinator.members import StoreAccess
    from fedllm.exchange.messages import PublicKeys

_DAY = 86400.0  # s


def folder_of(federation: str) -> Path:
    """The coordinator's folder, whether or not it is there."""
    return fedllm_home() / "coordinator" / federation


def journal_url_of(federation: str) -> str:
    """Where the journal is; unlike the coordinator's own way to it, this makes no folder."""
    import os

    given = os.environ.get("FEDLLM_JOURNAL_URL")
    return given or f"sqlite:///{folder_of(federation) / 'journal.db'}"


@contextmanager
def reading(federation: str) -> Iterator[Session | None]:
    """The journal for reading; None where no coordinator has worked yet."""
    from sqlalchemy.engine import make_url

    url = journal_url_of(federation)
    parsed = make_url(with_driver(url))
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        yield None
        return
    engine = reading_engine(url)
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def roster(federation: str) -> "list[PublicKeys]":
    """The sites of the newest roster."""
    from fedllm.coordinator.tables import FederationRow
    from fedllm.exchange.messages import PublicKeys

    with reading(federation) as session:
        row = session.get(FederationRow, federation) if session else None
        return [PublicKeys(**site) for site in json.loads(row.roster)["sites"]] if row else []


def leftovers(federation: str) -> Iterator[Finding]:
    """A lease that nobody holds any more, releases that wait for MLflow, refusals since yesterday."""
    with reading(federation) as session:
        if session is None:
            yield ok("lease", "no training has run yet")
            return
        yield _lease(session, federation)
        yield _releases(session, federation)
        yield _refusals(session)


def _lease(session: Session, federation: str) -> Finding:
    from fedllm.coordinator.lease import is_dead
    from fedllm.coordinator.tables import LeaseRow

    row = session.get(LeaseRow, federation)
    if row is None or not row.holder:
        return ok("lease", "free")
    host, process, _ = row.holder.split("|")
    if row.expires > time.time() and not is_dead(row.holder):
        return ok("lease", f"process {process} on {host} leads {row.run}")
    return warn(
        "lease",
        f"process {process} on {host} is gone and left {row.run} behind",
        f"`fedllm run FILE --resume {row.run}`, or `fedllm cancel {row.run}`; any other run takes the lease",
    )


def _releases(session: Session, federation: str) -> Finding:
    from fedllm.coordinator.tables import ReleaseRow, RunRow

    waiting = session.scalar(
        select(func.count())
        .select_from(ReleaseRow)
        .join(RunRow, RunRow.run == ReleaseRow.run)
        .where(ReleaseRow.version.is_(None), RunRow.federation == federation)
    )
    if not waiting:
        return ok("releases", "none waits for MLflow")
    return warn(
        "releases",
        f"{waiting} wait for MLflow",
        "they are published by the next round of any run: see `mlflow`",
    )


def _refusals(session: Session) -> Finding:
    from sqlalchemy import text

    found = session.execute(
        text("SELECT kind, party, SUM(times) FROM security_event WHERE last > :since GROUP BY kind, party"),
        {"since": time.time() - _DAY},
    ).all()
    if not found:
        return ok("security events", "none since yesterday")
    told = ", ".join(sorted(f"{party}: {kind} ({times} times)" for kind, party, times in found)[:10])
    return warn("security events", f"since yesterday: {told}", "`fedllm events` says what and why")


def sites(
    config: "FederationConfig", access: "StoreAccess", members: "Sequence[PublicKeys]"
) -> Iterator[Finding]:
    """Which sites of the roster are live."""
    from fedllm.coordinator.dispatch import FRESH

    if not members:
        yield ok("sites", "no site has joined yet: `fedllm site add CARD` takes one in")
        return
    connected = access.connect()
    now = connected.now()
    away = {}
    for keys in members:
        heard, said = _heard(config.name, access, keys)
        if heard is None:
            away[keys.name] = said
        elif said == "stopped" or now - heard > FRESH:
            word = "stopped" if said == "stopped" else "silent"
            away[keys.name] = f"{word} since {_ago(now - heard)}"
    live = len(members) - len(away)
    told = "; ".join(f"{name}: {why}" for name, why in sorted(away.items()))
    if not away:
        yield ok("sites", f"all {live} are live")
    elif config.simulation is not None:
        yield ok("sites", f"{live} of {len(members)} are live: a simulation's are there while it trains")
    else:
        yield warn(
            "sites", f"{live} of {len(members)} are live; {told}", "start their agents: `fedllm agent`"
        )


def _heard(federation: str, access: "StoreAccess", keys: "PublicKeys") -> tuple[float | None, str]:
    """When a site's card was shown by the store's clock, and what it says; or why there is none."""
    from fedllm.exchange.keys import Layout
    from fedllm.exchange.messages import COORDINATOR, Card
    from fedllm.secure.envelope import open_envelope

    store, key = access.connect(), Layout(federation).card(keys.name)
    try:
        modified = store.stat(key).modified
        envelope = store.get(key, limit=Card.largest)
        card = open_envelope(
            envelope, Card, keys, federation=federation, sender=keys.name, receiver=COORDINATOR
        )
    except ObjectNotFoundError:
        return None, "never heard of"
    except RefusedError as error:
        return None, f"its card is refused: {error}"
    return modified, card.state


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def modes(federation: str | None) -> Iterator[Finding]:
    """Whether what only its owner may read is so: keys, ledgers, journals, the stack's secrets."""
    home = fedllm_home()
    folders = [home / "stack"]
    secret = [home / "ca" / "ca.key", home / "ca" / "server.key", *_stack_secrets(home / "stack")]
    if federation is not None:
        keys = folder_of(federation)
        folders += [keys, *keys.glob("keys*")]
        secret += [*keys.glob("keys*/*.key")]
    yield open_to_others("keys", folders, secret)


def _stack_secrets(stack: Path) -> list[Path]:
    names = ("stack.json", "supervisord.conf", "passwords.json", "client.env", "minio/root.json")
    return [stack / name for name in (*names, "databases.json", "mlflow-auth.ini", "mlflow-auth.db")]


def open_to_others(name: str, folders: Sequence[Path], files: Sequence[Path]) -> Finding:
    """Folders and files that are there, and must be their owner's alone."""
    wanted = [(path, 0o700) for path in folders] + [(path, 0o600) for path in files]
    there = [(path, mode) for path, mode in wanted if path.exists()]
    wide = [(path, mode) for path, mode in there if path.stat().st_mode & 0o077]
    if not wide:
        return ok(name, f"{len(there)} files and folders, their owner's alone")
    return fail(
        name,
        f"open to others: {', '.join(str(path) for path, _ in wide)}",
        "; ".join(f"chmod {mode:o} {path}" for path, mode in wide)
        + "; what others could read, replace: docs/operations.md",
    )
