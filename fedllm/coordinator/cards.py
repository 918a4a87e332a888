"""Read a site's card at the coordinator: what the site's agent reports, and when it did."""

from dataclasses import dataclass

from fedllm.errors import ReplayError
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.tables import CardRow
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import COORDINATOR, Card, PublicKeys
from fedllm.secure.envelope import open_envelope

FRESH = 35.0  # s: a site whose card is older (three heartbeats missed) is not live
PREPARING = "is preparing its base model"


@dataclass(frozen=True)
class ShownCard:
    """A card, and when the agent published it: s since 1970 by the store's clock."""

    card: Card
    at: float

    def is_fresh(self, now: float) -> bool:
        """Return whether the agent published the card recently; the card may say that it has stopped."""
        return now - self.at <= FRESH

    def is_live(self, now: float) -> bool:
        """Return whether the agent can take part in a round that begins now."""
        return self.is_fresh(now) and self.card.state not in {"preparing", "stopped"}


def shown_card(store: ObjectStore, federation: str, keys: PublicKeys) -> ShownCard:
    """Read and verify the card of the site with these keys.

    Raises:
        ObjectNotFoundError: the site's agent has never published one.
        RefusedError: the card is not a valid one of this site.
        ExchangeError: the store does not answer.
    """
    key = Layout(federation).card(keys.name)
    at = store.stat(key).modified
    envelope = store.get(key, limit=Card.largest)
    card = open_envelope(envelope, Card, keys, federation=federation, sender=keys.name, receiver=COORDINATOR)
    return ShownCard(card, at)


def refuse_older(journal: Journal, card: Card) -> int:
    """Return the highest card number on record for the card's site; -1 if there is none.

    Raises:
        ReplayError: this card's number is lower.
    """
    with journal.read() as session:
        row = session.get(CardRow, (journal.federation, card.sender))
    known = row.counter if row is not None else -1
    if card.counter < known:
        raise ReplayError(
            f"its card is number {card.counter}, but {known} was seen before: the store has an old card, or "
            "the site lost its memory and needs new keys (`fedllm site rekey`)"
        )
    return known


def note_number(journal: Journal, card: Card) -> None:
    """Record a card's number. Raises `ReplayError` if it is lower than the one on record."""
    if card.counter > refuse_older(journal, card):
        row = CardRow(federation=journal.federation, site=card.sender, counter=card.counter)
        with journal.write() as session:
            session.merge(row)
