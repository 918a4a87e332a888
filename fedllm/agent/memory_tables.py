"""The tables of a site's memory."""

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """Base of all tables."""


class HighWaterRow(Table):
    """Numbers that only rise: an older message is a replay or a zombie's."""

    __tablename__ = "high_water"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[int]


class SeenRow(Table):
    """The message that raised a mark to its value: there may be one for each value."""

    __tablename__ = "seen"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))


class SpentRow(Table):
    """What a run has taken of the site."""

    __tablename__ = "spent"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    bytes: Mapped[int]
    seconds: Mapped[float]  # s of training


class WorkRow(Table):
    """A round's work, with what was sent for it."""

    __tablename__ = "work"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    plan_sha256: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(10))
    answer: Mapped[bytes] = mapped_column(LargeBinary)  # envelope
    update: Mapped[bytes | None] = mapped_column(LargeBinary)  # envelope
    payload: Mapped[str | None]  # JSON of the sealed payload's description
    at: Mapped[float]  # s since 1970


class ReplyRow(Table):
    """A reply in a phase after the training, committed before it is shown."""

    __tablename__ = "reply"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    phase: Mapped[str] = mapped_column(String(63), primary_key=True)
    query_sha256: Mapped[str] = mapped_column(String(64))
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
