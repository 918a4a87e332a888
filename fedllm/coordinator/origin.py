"""The origin of a federation's members: real sites were enrolled, a simulation made simulated ones.

All members of a federation share one origin. The journal records a member's origin before the roster names
it, and every change of the roster checks all members first, so the two kinds cannot mix.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Literal

from pydantic import ValidationError

from fedllm.config import FederationConfig, fedllm_home
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.journal.location import has_journal
from fedllm.journal.tables import OriginRow
from fedllm.protocol.messages import PublicKeys, Roster

Origin = Literal["real", "simulated"]

_NAMED = 5  # largest number of members that a message names


def note_origin(journal: Journal, keys: PublicKeys, origin: Origin) -> None:
    """Record the origin of a site, before it enters the roster."""
    row = OriginRow(federation=journal.federation, site=keys.name, verify=keys.verify, origin=origin)
    with journal.write() as session:
        session.merge(row)


def members_by_origin(journal: Journal) -> dict[Origin, list[PublicKeys]]:
    """Return the members of the newest roster by origin, each list in the roster's order."""
    stored = journal.roster()
    sites = Roster.model_validate_json(stored).sites if stored is not None else ()
    members: dict[Origin, list[PublicKeys]] = {"real": [], "simulated": []}
    with journal.read() as session:
        for keys in sites:
            row = session.get(OriginRow, (journal.federation, keys.name, keys.verify))
            simulated = row.origin == "simulated" if row else _is_simulated_here(journal.federation, keys)
            members["simulated" if simulated else "real"].append(keys)
    return members


def refuse_another_origin(journal: Journal, origin: Origin) -> None:
    """Refuse a new member whose origin differs from that of the roster's members.

    Raises:
        ConfigError: the origins differ; names the members and what to do.
    """
    members, federation = members_by_origin(journal), journal.federation
    if origin == "real" and members["simulated"]:
        raise ConfigError(
            f"{federation} is simulated: its simulation made {listed(members['simulated'])}. Give the real "
            "federation another name, or remove these with `fedllm site revoke --simulated --config FILE`"
        )
    if origin == "simulated" and members["real"]:
        raise ConfigError(
            f"{federation} is real: {listed(members['real'])} joined it with `fedllm site add`, so no "
            "simulated site may join. Run it with --agents external, take `simulation` out of its file, "
            "or simulate under another name"
        )


def refuse_simulation(config: FederationConfig) -> None:
    """Refuse a configuration that simulates sites of a federation with real members. Creates nothing.

    Raises:
        ConfigError: there are real members; names them and what to do.
    """
    if config.simulation is not None and has_journal(config.name):
        with closing(Journal(config.name)) as journal:
            refuse_another_origin(journal, "simulated")


def listed(sites: Sequence[PublicKeys]) -> str:
    """Join the sites' names for a message; only the first few of many."""
    names = [keys.name for keys in sites]
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more} more"


def _is_simulated_here(federation: str, keys: PublicKeys) -> bool:
    """Return whether a member without a recorded origin has its home among this machine's simulations."""
    card = fedllm_home() / "simulated" / federation / keys.name / "card.json"
    try:
        return PublicKeys.model_validate_json(card.read_bytes()) == keys
    except (OSError, ValidationError):
        return False
