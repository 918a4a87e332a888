"""A coordinator's federations side by side: for whoever names a wrong file or has changed its name."""

from contextlib import closing

from sqlalchemy import select

from fedllm.config import fedllm_home
from fedllm.coordinator.origin import listed
from fedllm.journal.journal import Journal
from fedllm.journal.tables import FederationRow
from fedllm.protocol.messages import Roster

_NAMED = 5  # federations that a hint names


def rosters() -> dict[str, Roster]:
    """The newest roster of every federation that this coordinator's journals know, by name."""
    found: dict[str, Roster] = {}
    for folder in sorted((fedllm_home() / "coordinator").glob("*/")):
        if folder.name in found:
            continue  # in a journal that several share, and that was read
        with closing(Journal(folder.name)) as journal, journal.read() as session:
            rows = session.scalars(select(FederationRow)).all()
            found |= {row.federation: Roster.model_validate_json(row.roster) for row in rows}
    return found


def other_federations(federation: str, site: str | None = None) -> str:
    """A hint at other federations with members, or with one member; empty where there is none.

    Args:
        federation: the one that was named.
        site: a member that is looked for.
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
