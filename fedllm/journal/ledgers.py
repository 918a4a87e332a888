"""The entries of the sites' privacy ledgers that this coordinator has checked.

All entries are stored. A plan names the newest entry of each ledger, and its signature countersigns it: a
site whose ledger does not hold that entry has lost or rolled back the ledger.
"""

from collections.abc import Iterable, Sequence

from pydantic import ValidationError
from sqlalchemy import select

from fedllm.errors import LedgerError
from fedllm.journal.journal import Journal
from fedllm.journal.tables import LedgerRow
from fedllm.privacy.chain import ChainState, LedgerEntry, state_of
from fedllm.protocol.messages import LedgerHead
from fedllm.text import one_line


def known_entries(journal: Journal, site: str, dataset: str, last: int | None = None) -> list[LedgerEntry]:
    """Return the checked entries of a data set from the first one on, up to entry `last` if given."""
    where = [LedgerRow.federation == journal.federation, LedgerRow.site == site, LedgerRow.dataset == dataset]
    if last is not None:
        where.append(LedgerRow.seq <= last)
    with journal.read() as session:
        rows = session.scalars(select(LedgerRow.body).where(*where).order_by(LedgerRow.seq))
        return [LedgerEntry.model_validate_json(body) for body in rows]


def chain_up_to(journal: Journal, site: str, head: LedgerHead) -> tuple[list[LedgerEntry], ChainState]:
    """Return a chain's entries up to `head` and the state they add up to; every hash is recomputed.

    Raises:
        LedgerError: the stored entries do not lead to `head`: they were edited, or some are missing.
    """
    place = f"the ledger of {head.dataset} by {site}"
    try:
        entries = known_entries(journal, site, head.dataset, last=head.seq)
    except ValidationError as error:
        raise LedgerError(f"{place} holds what is no entry: {one_line(str(error))}") from None
    state = state_of(entries)
    if state.head is None or (state.head.seq, state.head.sha256) != (head.seq, head.sha256):
        raise LedgerError(f"{place} does not lead to entry {head.seq} as it was checked: it was edited")
    return entries, state


def known_datasets(journal: Journal, site: str) -> list[str]:
    """Return the data sets of which a site has shown a ledger."""
    where = (LedgerRow.federation == journal.federation, LedgerRow.site == site)
    with journal.read() as session:
        return list(
            session.scalars(select(LedgerRow.dataset).where(*where).distinct().order_by(LedgerRow.dataset))
        )


def known_heads(journal: Journal, sites: Iterable[str]) -> dict[str, tuple[LedgerHead, ...]]:
    """Return the newest checked entries by site, without the sites that have none."""
    heads_of = {
        site: tuple(_head(journal, site, name) for name in known_datasets(journal, site)) for site in sites
    }
    return {site: heads for site, heads in heads_of.items() if heads}


def keep_entries(journal: Journal, site: str, entries: Sequence[LedgerEntry]) -> None:
    """Store a checked chain; raise `LedgerError` if another entry is stored under one of its numbers."""
    with journal.write() as session:
        for entry in entries:
            key = (journal.federation, site, entry.dataset, entry.seq)
            row = session.get(LedgerRow, key)
            if row is None:
                body = entry.model_dump_json()
                names = dict(zip(("federation", "site", "dataset", "seq"), key, strict=True))
                session.add(LedgerRow(**names, sha256=entry.sha256, body=body))
            elif row.sha256 != entry.sha256:
                raise LedgerError(
                    f"entry {entry.seq} of {site}'s ledger is not the one that was shown before"
                )


def verify_ledgers(journal: Journal) -> list[dict[str, object]]:
    """Check every stored chain from its first entry, also those of former sites; one row per data set."""
    with journal.read() as session:
        query = select(LedgerRow.site).where(LedgerRow.federation == journal.federation).distinct()
        sites = list(session.scalars(query.order_by(LedgerRow.site)))
    return [_verified(journal, site, name) for site in sites for name in known_datasets(journal, site)]


def _verified(journal: Journal, site: str, dataset: str) -> dict[str, object]:
    entries = known_entries(journal, site, dataset)
    row: dict[str, object] = {"site": site, "dataset": dataset, "entries": len(entries)}
    try:
        for entry in entries:
            entry.check_signature()
        state = state_of(entries)
    except LedgerError as error:
        return row | {"head": "", "verdict": str(error)}
    return row | {"head": state.head.sha256 if state.head else "", "verdict": "whole"}


def _head(journal: Journal, site: str, dataset: str) -> LedgerHead:
    where = (LedgerRow.federation == journal.federation, LedgerRow.site == site, LedgerRow.dataset == dataset)
    with journal.read() as session:
        row = session.scalars(select(LedgerRow).where(*where).order_by(LedgerRow.seq.desc()).limit(1)).one()
        return LedgerHead(dataset=dataset, seq=row.seq, sha256=row.sha256)
