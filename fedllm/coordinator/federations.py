"""List a coordinator's federations, for hints when a file is the wrong one or its name was changed."""

from contextlib import closing

from sqlalchemy import select

from fedllm.config import fedllm_home
from fedllm.coordinator.origin import listed
from fedllm.journal.journal import Journal
from fedllm.journal.tables import FederationRow
from fedllm.protocol.messages import Roster

_NAMED = 5  # largest number of federations that a hint names


def rosters() -> dict[str, Roster]:
    """Return the newest roster of every federation in this coordinator's journals, by name."""
    newest: dict[str, Roster] = {}
    for folder in sorted((fedllm_home() / "coordinator").glob("*/")):
        if folder.name in newest:
            continue  # in a journal that federations share and that was already read
        with closing(Journal(folder.name)) as journal, journal.read() as session:
            rows = session.scalars(select(FederationRow)).all()
            newest |= {row.federation: Roster.model_validate_json(row.roster) for row in rows}
    return newest


def other_federations(federation: str, site: str | None = None) -> str:
    """Return a hint that names the other federations with members; empty if there are none.

    Args:
        federation: the one that the user named.
        site: list only federations with this member; None: all.
    """
    others = [
        f"{name} ({listed(roster.sites)})"
        for name, roster in rosters().items()
        if name != federation
        and roster.sites
        and (site is None or any(keys.name == site for keys in roster.sites))
    ]
    if not others:
        return ""
    return (
        f"; this coordinator's other federations are {', '.join(others[:_NAMED])}: is another file meant, "
        "or was the name in this one changed?"
    )
