"""Check a coordinator's journal and sites: the lease, waiting releases, refusals, silent sites."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import PREPARING, shown_card
from fedllm.coordinator.members import StoreAccess
from fedllm.doctor.databases import first_line, reading_engine, sqlite_file
from fedllm.doctor.finding import Finding, ok, warn
from fedllm.errors import JournalError, ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectStore
from fedllm.journal.database import database_clock
from fedllm.journal.lease import is_dead
from fedllm.journal.location import journal_url
from fedllm.journal.tables import FederationRow, LeaseRow, ReleaseRow, RunRow
from fedllm.postgres_address import shown
from fedllm.protocol.messages import PublicKeys

_DAY = 86400.0  # s


@contextmanager
def reading(federation: str) -> Iterator[Session | None]:
    """Open the journal read-only; yield None if no coordinator has used it yet.

    Raises:
        JournalError: the journal cannot be read.
    """
    url = journal_url(federation)
    path = sqlite_file(url)
    if path is not None and not path.exists():
        yield None
        return
    engine = reading_engine(url)
    try:
        with Session(engine) as session:
            yield session if inspect(session.connection()).has_table(LeaseRow.__tablename__) else None
    except SQLAlchemyError as error:
        raise JournalError(f"{shown(url)} cannot be read: {first_line(error)}") from None
    finally:
        engine.dispose()


def roster(federation: str) -> list[PublicKeys]:
    """Return the sites of the newest roster."""
    with reading(federation) as session:
        row = session.get(FederationRow, federation) if session else None
        return [PublicKeys(**site) for site in _sites_of(row.roster)] if row else []


def _sites_of(roster_json: str) -> list[dict[str, str]]:
    """Return the sites of a roster from the journal."""
    return list(json.loads(roster_json)["sites"])


def leftovers(federation: str) -> Iterator[Finding]:
    """Check for a dead holder's lease, releases that wait for MLflow, and refusals since yesterday."""
    with reading(federation) as session:
        if session is None:
            yield ok("lease", "no training has run yet")
            return
        yield _lease(session, federation)
        yield _releases(session, federation)
        yield _refusals(session, federation)


def _lease(session: Session, federation: str) -> Finding:
    row = session.get(LeaseRow, federation)
    if row is None or not row.holder:
        return ok("lease", "free")
    host, process, _ = row.holder.split("|")
    if row.expires > database_clock(session) and not is_dead(row.holder):
        return ok("lease", f"process {process} on {host} leads {row.run}")
    return warn(
        "lease",
        f"process {process} on {host} is gone and left {row.run} behind",
        f"`fedllm run FILE --resume {row.run}`, or `fedllm cancel {row.run}`; any other run takes the lease",
    )


def _releases(session: Session, federation: str) -> Finding:
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
        "the next round of any run publishes them: see `mlflow`",
    )


def _refusals(session: Session, federation: str) -> Finding:
    """Check for refusals since yesterday, without those that surely belong to another federation."""
    others, strangers = _elsewhere(session, federation)
    counts: Counter[tuple[str, str]] = Counter()
    for kind, party, run, times in session.execute(
        text("SELECT kind, party, run, times FROM security_event WHERE last > :since"),
        {"since": time.time() - _DAY},
    ):
        if run not in others if run else party not in strangers:
            counts[party, kind] += times
    if not counts:
        return ok("security events", "none since yesterday")
    parts = sorted(
        f"{party}: {kind}{f' ({times} times)' if times > 1 else ''}"
        for (party, kind), times in counts.items()
    )
    detail = f"since yesterday: {', '.join(parts[:10])}"
    return warn("security events", detail, "`fedllm events` shows what and why")


def _elsewhere(session: Session, federation: str) -> tuple[set[str], set[str]]:
    """Return the runs of other federations in this journal, and the sites that belong only to them."""
    runs = set(session.scalars(select(RunRow.run).where(RunRow.federation != federation)))
    rows = session.scalars(select(FederationRow)).all()
    members = {row.federation: {site["name"] for site in _sites_of(row.roster)} for row in rows}
    ours = members.pop(federation, set())
    return runs, set().union(*members.values()) - ours


def sites(config: FederationConfig, access: StoreAccess, members: Sequence[PublicKeys]) -> Iterator[Finding]:
    """Check which sites of the roster are live."""
    if not members:
        yield ok("sites", "no site has joined yet: `fedllm site add CARD` adds one")
        return
    connected = access.connect()
    now = connected.now()
    away = {}
    for keys in members:
        if (why := _away(connected, config.name, keys, now)) is not None:
            away[keys.name] = why
    live = len(members) - len(away)
    reasons = "; ".join(f"{name}: {why}" for name, why in sorted(away.items()))
    if not away:
        yield ok("sites", f"all {live} are live")
    elif config.simulation is not None:
        yield ok("sites", f"{live} of {len(members)} are live: simulated sites run only during a training")
    else:
        yield warn(
            "sites",
            f"{live} of {len(members)} are live; {reasons}",
            "start their agents: `fedllm agent --invitation FILE`, each at its site",
        )


def _away(store: ObjectStore, federation: str, keys: PublicKeys, now: float) -> str | None:
    """Return why a site would not take part in a round that begins now; None if it would."""
    try:
        seen = shown_card(store, federation, keys)
    except ObjectNotFoundError:
        return "never heard of"
    except RefusedError as error:
        return f"its card is refused: {error}"
    if seen.is_live(now):
        return None
    stopped = seen.card.state == "stopped"
    if stopped or not seen.is_fresh(now):
        return f"{'stopped' if stopped else 'silent'} since {_ago(now - seen.at)}"
    return PREPARING


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
