"""The journal's tables."""

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """The base class of the journal's tables."""


class LeaseRow(Table):
    """The leader of a federation. The epoch rises with every change of leader."""

    __tablename__ = "lease"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    epoch: Mapped[int]
    holder: Mapped[str | None] = mapped_column(String(200))
    run: Mapped[str | None] = mapped_column(String(63))
    expires: Mapped[float]  # s since 1970


class FederationRow(Table):
    """A federation's roster and head counter; the roster's version and the counter only rise."""

    __tablename__ = "federation"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    roster: Mapped[str]  # JSON of the newest roster
    head_counter: Mapped[int] = mapped_column(BigInteger, default=0)


class RunRow(Table):
    """One training."""

    __tablename__ = "run"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    federation: Mapped[str] = mapped_column(String(63), index=True)
    config: Mapped[str]  # JSON
    status: Mapped[str] = mapped_column(String(20))  # running, completed, failed, cancelled, crashed
    reason: Mapped[str] = mapped_column(default="")
    started: Mapped[float]
    finished: Mapped[float | None]


class OutcomeRow(Table):
    """The outcome of a step; never changed once written."""

    __tablename__ = "outcome"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(String(100), primary_key=True)
    body: Mapped[str]  # JSON
    at: Mapped[float]  # s since 1970


class OutboxRow(Table):
    """Signed bytes, committed before they are sent: a retry sends the same bytes and signs no new ones."""

    __tablename__ = "outbox"
    key: Mapped[str] = mapped_column(String(512), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class ReleaseRow(Table):
    """A model version; `version` is set once MLflow has it."""

    __tablename__ = "release"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]  # JSON
    version: Mapped[str | None]  # MLflow's reply as JSON


class FlowRunRow(Table):
    """Which Prefect flow run plays which training, so that Prefect's retry resumes it."""

    __tablename__ = "flow_run"
    flow_run: Mapped[str] = mapped_column(String(36), primary_key=True)
    run: Mapped[str] = mapped_column(String(63))


class RoundKeyRow(Table):
    """A round's own age key, sealed for the coordinator; deleted when the round is aggregated."""

    __tablename__ = "round_key"
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(String(70))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class LedgerRow(Table):
    """An entry of a site's privacy ledger that this coordinator has checked; entries are only added."""

    __tablename__ = "ledger"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    dataset: Mapped[str] = mapped_column(String(100), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64))
    body: Mapped[str]  # JSON of the entry


class CardRow(Table):
    """The highest counter seen on a site's card; a lower one is a replay."""

    __tablename__ = "card"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    counter: Mapped[int] = mapped_column(BigInteger)  # chosen by the site, up to 2**53


class OriginRow(Table):
    """How a member joined, recorded before it is in the roster."""

    __tablename__ = "member_origin"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    verify: Mapped[str] = mapped_column(String(64), primary_key=True)  # another key is another member
    origin: Mapped[str] = mapped_column(String(10))  # real, simulated


class SiteSeenRow(Table):
    """The watch's state of one site, so that no event is emitted twice."""

    __tablename__ = "site_seen"
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    site: Mapped[str] = mapped_column(String(63), primary_key=True)
    verify: Mapped[str] = mapped_column(String(64))  # the key that verified its card
    heard: Mapped[float]  # s since 1970 by the store's clock
    silent: Mapped[bool]
    announced: Mapped[int] = mapped_column(BigInteger)  # the site's number of announcements
    answered: Mapped[int] = mapped_column(BigInteger)  # the newest one with a round requested or played
    since: Mapped[float]  # when `announced` was first seen, s since 1970


class WatchEventRow(Table):
    """An event of the watch, stored until Prefect has it; sent again, it has the same id."""

    __tablename__ = "watch_event"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    federation: Mapped[str] = mapped_column(String(63), index=True)
    body: Mapped[str]  # JSON
