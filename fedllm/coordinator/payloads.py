"""Keep tensors on the coordinator's disk: the checked bytes count, even if the store's change later."""

import contextlib
import hashlib
import logging
from collections.abc import Iterable

from fedllm.coordinator.round_keys import destroy_round_key, round_identity
from fedllm.coordinator.training import Training
from fedllm.disk import write_whole
from fedllm.errors import ExchangeError, ObjectNotFoundError
from fedllm.exchange.mailbox import seal_to_file
from fedllm.journal.location import update_file
from fedllm.protocol.messages import Sealed

log = logging.getLogger(__name__)


def keep_update(training: Training, sealed: Sealed, number: int, payload: bytes) -> None:
    """Keep an accepted update's opened bytes: its site could still overwrite the upload in the store."""
    write_whole(training.folder / update_file(number, sealed.sha256), payload)


def read_update(training: Training, sealed: Sealed, number: int, limit: int) -> bytes:
    """Return an accepted update's bytes from this disk, or from the store if another coordinator audited."""
    kept = _kept(training, sealed, update_file(number, sealed.sha256))
    if kept is not None:
        return kept
    opener = round_identity(training, number)
    return training.mailbox.fetch_payload(sealed, limit=limit, opener=opener)


def forget_updates(training: Training, number: int, sites: Iterable[str]) -> None:
    """Destroy the round's key, then delete the updates of a round that has ended.

    The key goes first: uploads that stay in an unreachable store cannot be opened. `fedllm gc` removes them
    later.
    """
    destroy_round_key(training, number)
    for path in training.folder.glob(update_file(number, "*")):
        path.unlink()
    try:
        for site in sites:
            training.mailbox.store.delete(training.layout.payload(site, training.run, number))
    except ExchangeError as error:
        log.warning("round %d: its sealed updates could not be deleted from the store yet: %s", number, error)


def _kept(training: Training, sealed: Sealed, name: str) -> bytes | None:
    path = training.folder / name
    if path.exists() and hashlib.sha256(data := path.read_bytes()).hexdigest() == sealed.sha256:
        return data
    return None


def read_model(training: Training, model: Sealed) -> bytes:
    """Return a global adapter's bytes from this coordinator's disk, else from the store."""
    return _kept(training, model, f"{model.sha256}.model") or training.mailbox.fetch_payload(model)


def seal_model(training: Training, data: bytes, recipients: tuple[str, ...]) -> Sealed:
    """Keep a global adapter on disk and publish it, sealed for `recipients` (age) and the coordinator."""
    sha256 = hashlib.sha256(data).hexdigest()
    (training.folder / f"{sha256}.model").write_bytes(data)
    path = training.folder / f"{sha256}.sealed"
    draft = seal_to_file(data, [*recipients, training.mailbox.me.public.recipient], "unnamed", path)
    # Named by the sealed bytes: a model sealed anew for sites that joined later is another object; both stay.
    sealed = draft.model_copy(update={"key": training.layout.model(training.run, draft.sealed_sha256)})
    training.mailbox.send_payload(path, sealed)
    return sealed


def show_model_again(training: Training, model: Sealed) -> bool:
    """Ensure that a sealed model is in the store, from this disk if lost; return whether it is there."""
    store = training.mailbox.store
    with contextlib.suppress(ObjectNotFoundError):
        if store.stat(model.key).size == model.sealed_bytes:
            return True
    path = training.folder / f"{model.sha256}.sealed"
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sealed_sha256:
        training.mailbox.send_payload(path, model)
        return True
    return False
