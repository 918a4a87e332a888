"""Record security events: what was refused, from whom and why, in each party's own database."""

import time
from dataclasses import dataclass

from sqlalchemy import Engine, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from fedllm.errors import RefusedError
from fedllm.text import LONGEST, one_line

# All kinds: those of RefusedError's classes, a plan declined by a site's policy, a revoked site.
KINDS = ("refused", "replay", "equivocation", "quota", "policy", "budget", "ledger", "revoked")

MOST_REASONS = 1000  # different reasons per party and run, so that a flood of refusals fills no disk


class _Table(DeclarativeBase):
    pass


class _EventRow(_Table):
    __tablename__ = "security_event"
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    party: Mapped[str] = mapped_column(String(63), index=True)
    run: Mapped[str] = mapped_column(String(63), index=True)
    round: Mapped[int]
    reason: Mapped[str] = mapped_column(String(LONGEST))
    times: Mapped[int]
    first: Mapped[float]  # s since 1970
    last: Mapped[float]  # s since 1970


@dataclass(frozen=True)
class SecurityEvent:
    """One reason for a refusal, and how often it occurred."""

    kind: str  # one of KINDS
    party: str  # the subject: a site, the coordinator, or the store
    run: str
    round: int
    reason: str
    times: int
    first: float  # s since 1970
    last: float  # s since 1970


class SecurityLog:
    """Security events in a table of the owner's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        _Table.metadata.create_all(engine)

    def refused(self, error: RefusedError, party: str, run: str | None = None, round_number: int = 0) -> None:
        """Record a refusal."""
        self.record(error.kind, party, str(error), run, round_number)

    def record(
        self, kind: str, party: str, reason: str, run: str | None = None, round_number: int = 0
    ) -> None:
        """Record an event; a repeated one increases its count."""
        run, now = run or "", time.time()
        where = (_EventRow.party == party, _EventRow.run == run)
        with Session(self._engine) as session, session.begin():
            count = session.scalar(select(func.count()).select_from(_EventRow).where(*where)) or 0
            text = one_line(reason) if count < MOST_REASONS else "and more reasons than are kept"
            same = (_EventRow.kind == kind, _EventRow.round == round_number, _EventRow.reason == text)
            row = session.scalar(select(_EventRow).where(*where, *same))
            if row is None:
                row = _EventRow(
                    kind=kind, party=party, run=run, round=round_number, reason=text, times=0, first=now
                )
                session.add(row)
            row.times, row.last = row.times + 1, now

    def events(self, run: str | None = None) -> list[SecurityEvent]:
        """Return the recorded events, oldest first, of one run or of all."""
        query = select(_EventRow).order_by(_EventRow.number)
        if run is not None:
            query = query.where(_EventRow.run == run)
        with Session(self._engine) as session:
            return [
                SecurityEvent(
                    row.kind, row.party, row.run, row.round, row.reason, row.times, row.first, row.last
                )
                for row in session.scalars(query)
            ]
