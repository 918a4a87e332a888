"""Where a federation's members come from: real sites were enrolled, simulated ones were made by a simulation.

A federation is one or the other. The journal notes a member's origin before the roster names it, and every
change of the roster checks all members first, so that neither kind can join the other.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Literal

from pydantic import ValidationError

from fedllm.config import FederationConfig, fedllm_home
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.journal.place import has_journal
from fedllm.journal.tables import OriginRow
from fedllm.protocol.messages import PublicKeys, Roster

Origin = Literal["real", "simulated"]

_NAMED = 5  # members that a message names


def note_origin(journal: Journal, keys: PublicKeys, origin: Origin) -> None:
    """Note how the owner of these keys, who is not in the roster, comes in."""
    row = OriginRow(federation=journal.federation, site=keys.name, verify=keys.verify, origin=origin)
    with journal.write() as session:
        session.merge(row)


def members_by_origin(journal: Journal) -> dict[Origin, list[PublicKeys]]:
    """The members of the newest roster by their origin, each list in the roster's order."""
    kept = journal.roster()
    sites = Roster.model_validate_json(kept).sites if kept is not None else ()
    found: dict[Origin, list[PublicKeys]] = {"real": [], "simulated": []}
    with journal.read() as session:
        for keys in sites:
            row = session.get(OriginRow, (journal.federation, keys.name, keys.verify))
            simulated = row.origin == "simulated" if row else _is_simulated_here(journal.federation, keys)
            found["simulated" if simulated else "real"].append(keys)
    return found


def refuse_another_origin(journal: Journal, origin: Origin) -> None:
    """Refuse a member that comes in another way than those who are in the roster.

    Raises:
        ConfigError: with the members in the way, and what to do.
    """
    members, federation = members_by_origin(journal), journal.federation
    if origin == "real" and members["simulated"]:
        raise ConfigError(
            f"{federation} is simulated: its simulation made {listed(members['simulated'])}. Give the real "
            "federation another name, or remove these with `fedllm site revoke --simulated --config FILE`"
        )
    if origin == "simulated" and members["real"]:
        raise ConfigError(
            f"{federation} is real: {listed(members['real'])} joined it with `fedllm site add`, and no "
            "simulated site may. Run it with --agents external or take `simulation` out of its file; "
            "simulate under another name"
        )


def refuse_simulation(config: FederationConfig) -> None:
    """Refuse a configuration that simulates the sites of a federation with real members; nothing is made.

    Raises:
        ConfigError: with their names, and what to do.
    """
    if config.simulation is not None and has_journal(config.name):
        with closing(Journal(config.name)) as journal:
            refuse_another_origin(journal, "simulated")


def listed(sites: Sequence[PublicKeys]) -> str:
    """Names for a message: the first few of many."""
    names = [keys.name for keys in sites]
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more} more"


def _is_simulated_here(federation: str, keys: PublicKeys) -> bool:
    """Whether a member from before origins were noted has its home where this machine's simulations do."""
    card = fedllm_home() / "simulated" / federation / keys.name / "card.json"
    try:
        return PublicKeys.model_validate_json(card.read_bytes()) == keys
    except (OSError, ValidationError):
        return False
