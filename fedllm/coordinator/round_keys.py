"""A round's own age key: sites seal their updates for it, and it is destroyed once they are summed.

An attacker who later takes the coordinator's long-term keys, and has a copy of the store, cannot open the
updates of past rounds. The key is in the journal, sealed for the coordinator; database backups and spare
disk blocks may outlive the row.
"""

import pyrage
from sqlalchemy import text

from fedllm.coordinator.training import Training
from fedllm.errors import RefusedError
from fedllm.journal.tables import RoundKeyRow
from fedllm.secure.identity import Identity
from fedllm.secure.sealing import seal, unseal


def round_recipient(training: Training, number: int) -> str:
    """Return a round's age recipient; draw it once, so a resumed coordinator gets the same one."""
    with training.journal.write() as session:
        row = session.get(RoundKeyRow, (training.run, number))
        if row is None:
            drawn = pyrage.x25519.Identity.generate()
            row = RoundKeyRow(
                run=training.run,
                round=number,
                recipient=str(drawn.to_public()),
                sealed=seal(str(drawn).encode(), [training.mailbox.me.public.recipient]),
            )
            session.add(row)
        return row.recipient


def round_identity(training: Training, number: int) -> Identity:
    """Return the identity that opens the updates of a round.

    Raises:
        RefusedError: the key is destroyed because the round has ended.
    """
    with training.journal.read() as session:
        row = session.get(RoundKeyRow, (training.run, number))
        if row is None:
            raise RefusedError(f"the key of round {number} of {training.run} is destroyed")
        sealed = row.sealed
    me = training.mailbox.me
    opening = pyrage.x25519.Identity.from_str(unseal(sealed, me).decode("ascii"))
    return Identity(me.name, me.signing, opening)


def destroy_round_key(training: Training, number: int) -> None:
    """Delete a round's key; SQLite overwrites the row and truncates the log that still holds it."""
    with training.journal.read() as session:
        if session.get(RoundKeyRow, (training.run, number)) is None:
            return
    with training.journal.write() as session:
        session.delete(session.get_one(RoundKeyRow, (training.run, number)))
    with training.journal.read() as session:
        if session.get_bind().dialect.name == "sqlite":
            session.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def destroy_stale_keys(training: Training) -> None:
    """Destroy the keys of ended rounds that a crashed coordinator left."""
    done = {number for number, step in training.journal.times(training.run) if step in {"failed", "evaluate"}}
    for number in done:
        destroy_round_key(training, number)
