"""What a site must never forget: what it accepted, reserved, committed and released, and what it refused.

Work moves reserved → committed → released, and only forwards. Before `committed` a crash means training
again; from `committed` on, the identical bytes are sent again and nothing is ever made twice. Work that is
given up goes from reserved to released with no update: it is never trained.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import create_engine, event, func, insert, select
from sqlalchemy.orm import Session

from fedllm.agent.memory_tables import HighWaterRow, ReplyRow, SeenRow, SpentRow, Table, WorkRow
from fedllm.agent.policy import Spent
from fedllm.errors import EquivocationError, RefusedError, ReplayError
from fedllm.secure.events import SecurityLog

State = Literal["declined", "reserved", "committed", "released"]
_UNSENT = {"reserved", "committed"}


@dataclass(frozen=True)
class Work:
    """A round's work as the site remembers it."""

    run: str
    round: int
    plan_sha256: str
    state: State
    answer: bytes
    update: bytes | None
    payload: str | None


@dataclass(frozen=True)
class Tally:
    """What a site did in all."""

    sent: int  # rounds
    declined: int  # rounds
    failed: int  # rounds
    under_way: int  # rounds: accepted, and the store does not have how they ended
    bytes_sent: int  # of sealed updates
    bytes_promised: int  # down and up
    seconds: float  # s of training


class Memory:
    """The site's own database, one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _pragmas)
        Table.metadata.create_all(self._engine)
        self.security = SecurityLog(self._engine)

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    def value(self, name: str) -> int:
        """The highest value seen under `name`, 0 at first."""
        with Session(self._engine) as session:
            row = session.get(HighWaterRow, name)
            return row.value if row else 0

    def rise(self, name: str, value: int, sha256: str | None = None) -> None:
        """Raise a high-water mark.

        Args:
            name: of the mark.
            value: that it should have; it may stand still.
            sha256: of the message that says so, where one value may have one message only.

        Raises:
            ReplayError: the mark would fall.
            EquivocationError: another message had this very value.
        """
        with self._engine.begin() as connection:
            found = connection.scalar(select(HighWaterRow.value).where(HighWaterRow.name == name))
            if found is not None and value < found:
                raise ReplayError(f"{name} {value} is below {found}, which was seen before")
            if sha256 is not None:
                newest = select(SeenRow.value, SeenRow.sha256).where(SeenRow.name == name)
                seen = connection.execute(newest).first()
                if seen is not None and seen.value == value and seen.sha256 != sha256:
                    raise EquivocationError(f"{name} {value} was seen before with other content")
                if seen is None or value > seen.value:
                    row = {"name": name, "value": value, "sha256": sha256}
                    connection.execute(insert(SeenRow).prefix_with("OR REPLACE").values(row))
            if found is None or value > found:
                row = {"name": name, "value": value}
                connection.execute(insert(HighWaterRow).prefix_with("OR REPLACE").values(row))

    def spent(self, run: str) -> Spent:
        """What a run has taken of the site so far."""
        with Session(self._engine) as session:
            row = session.get(SpentRow, run)
            return Spent(row.bytes, row.seconds) if row else Spent()

    def trained(self, run: str, seconds: float) -> None:
        """Count time of training; what a crash cut short is not counted."""
        with Session(self._engine) as session, session.begin():
            _charge(session, run, 0, seconds)

    def tally(self) -> Tally:
        """Count over all rounds and runs."""
        size = func.sum(func.json_extract(WorkRow.payload, "$.sealed_bytes"))
        by_end = select(WorkRow.state, WorkRow.payload.is_(None), func.count(), size)
        with Session(self._engine) as session:
            rows = session.execute(by_end.group_by(WorkRow.state, WorkRow.payload.is_(None)))
            ends = {(state, bool(bare)): (count, sealed or 0) for state, bare, count, sealed in rows}
            totals = select(func.sum(SpentRow.bytes), func.sum(SpentRow.seconds))
            promised, seconds = session.execute(totals).one()

        def rounds(state: str, *, bare: bool) -> int:
            return int(ends.get((state, bare), (0, 0))[0])

        return Tally(
            sent=rounds("released", bare=False),
            declined=rounds("declined", bare=True),
            failed=rounds("released", bare=True),
            under_way=sum(count for (state, _), (count, _) in ends.items() if state in _UNSENT),
            bytes_sent=sum(sealed for _, sealed in ends.values()),
            bytes_promised=promised or 0,
            seconds=seconds or 0.0,
        )

    def work(self, run: str, number: int) -> Work | None:
        """What is remembered of a round."""
        with Session(self._engine) as session:
            row = session.get(WorkRow, (run, number))
            return _as_work(row) if row else None

    def reserved(self) -> list[Work]:
        """Work that was promised, and has no update yet."""
        return self._in_state("reserved")

    def committed(self) -> list[Work]:
        """Work whose bytes are on disk but perhaps not in the store."""
        return self._in_state("committed")

    def _in_state(self, state: State) -> list[Work]:
        with Session(self._engine) as session:
            rows = session.scalars(select(WorkRow).where(WorkRow.state == state).order_by(WorkRow.at))
            return [_as_work(row) for row in rows]

    def reserve(  # noqa: PLR0913 - what an answer promises, each named by the caller
        self, run: str, number: int, plan_sha256: str, answer: bytes, *, declined: bool, size: int = 0
    ) -> Work:
        """Note the answer before it is sent, and the bytes that it promises to carry."""
        state: State = "declined" if declined else "reserved"
        row = WorkRow(
            run=run,
            round=number,
            plan_sha256=plan_sha256,
            state=state,
            answer=answer,
            at=time.time(),
        )
        with Session(self._engine) as session, session.begin():
            session.add(row)
            _charge(session, run, size, 0.0)
            return _as_work(row)

    def commit(self, run: str, number: int, update: bytes, payload: str | None) -> None:
        """Note the update; its payload is on disk already."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(WorkRow, (run, number))
            if row.state != "reserved":
                raise RefusedError(f"round {number} of {run} is {row.state}: its update is made already")
            row.state, row.update, row.payload = "committed", update, payload

    def reply(self, run: str, number: int, phase: str, query_sha256: str) -> bytes | None:
        """Return the committed reply to a phase's query; None before there is one.

        Raises:
            EquivocationError: another query was replied to in this phase.
        """
        with Session(self._engine) as session:
            row = session.get(ReplyRow, (run, number, phase))
        if row is not None and row.query_sha256 != query_sha256:
            raise EquivocationError(f"a second query in phase {phase} of round {number} of {run}")
        return row.envelope if row else None

    def commit_reply(self, run: str, number: int, phase: str, query_sha256: str, envelope: bytes) -> None:
        """Note a reply before anybody sees it: it is never made twice."""
        row = ReplyRow(run=run, round=number, phase=phase, query_sha256=query_sha256, envelope=envelope)
        with Session(self._engine) as session, session.begin():
            session.add(row)

    def release(self, run: str, number: int) -> None:
        """Note that the store has the update."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(WorkRow, (run, number))
            if row.state in {"committed", "released"}:
                row.state = "released"
            else:
                raise RefusedError(f"round {number} of {run} is {row.state}: there is no update to release")

    def give_up(self, run: str, number: int) -> None:
        """Note that a round that was promised is never trained: what it sends may have been sent already."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(WorkRow, (run, number))
            if row.state != "reserved":
                raise RefusedError(f"round {number} of {run} is {row.state}: it cannot be given up")
            row.state = "released"


def _charge(session: Session, run: str, size: int, seconds: float) -> None:
    row = session.get(SpentRow, run)
    if row is None:
        session.add(SpentRow(run=run, bytes=size, seconds=seconds))
    else:
        row.bytes, row.seconds = row.bytes + size, row.seconds + seconds


def _as_work(row: WorkRow) -> Work:
    return Work(row.run, row.round, row.plan_sha256, row.state, row.answer, row.update, row.payload)  # type: ignore[arg-type]  # written by this module alone


def _pragmas(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # a DBAPI connection has no type
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
