"""Replace the coordinator's keys between trainings: the runbook's step after the keys were stolen."""

from collections.abc import Mapping
from contextlib import closing

from sqlalchemy import delete, select

from fedllm.config import FederationConfig
from fedllm.coordinator.members import (
    coordinator_identity,
    invite,
    publish_roster,
    roster_of,
    save_roster,
    store_access,
)
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.location import coordinator_folder
from fedllm.journal.tables import RoundKeyRow, RunRow
from fedllm.secure.identity import retire_identity


def rekey_coordinator(config: FederationConfig) -> Mapping[str, bytes]:
    """Replace the coordinator's keys and return a new sealed invitation per site.

    The former keys are kept beside the new ones. Every site gets a new store secret and must accept the
    new coordinator by its fingerprint; runs that began under the former keys cannot be resumed.

    Raises:
        LeaseError: a training is under way.
    """
    access = store_access(config)
    folder = coordinator_folder(config.name) / "keys"
    with closing(Journal(config.name)) as journal, Lease(journal, "keys"):
        roster = roster_of(journal, coordinator_identity(config.name))
        destroy_keys_of_rounds(journal)
        retire_identity(folder)
        identity = coordinator_identity(config.name)
        roster = save_roster(journal, roster, coordinator=identity.public)
        publish_roster(access.connect(), journal, identity)
        return {keys.name: invite(access, roster, keys, identity) for keys in roster.sites}


def destroy_keys_of_rounds(journal: Journal) -> None:
    """Destroy the remaining round keys: they are sealed for the former keys, and no run can continue."""
    mine = select(RunRow.run).where(RunRow.federation == journal.federation)
    with journal.write() as session:
        session.execute(delete(RoundKeyRow).where(RoundKeyRow.run.in_(mine)))
