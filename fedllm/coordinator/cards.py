"""A site's card, as those who coordinate read it: what the site's agent says of itself, and when it did."""

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
    """A card, and when the agent showed it by the store's clock, in s since 1970."""

    card: Card
    at: float

    def is_fresh(self, now: float) -> bool:
        """Whether its agent was there a moment ago by the store's clock; it may have said that it stops."""
        return now - self.at <= FRESH

    def is_live(self, now: float) -> bool:
        """Whether its agent takes part in a round that begins now."""
        return self.is_fresh(now) and self.card.state not in {"preparing", "stopped"}


def shown_card(store: ObjectStore, federation: str, keys: PublicKeys) -> ShownCard:
    """Read the card of the site that these keys belong to.

    Raises:
        ObjectNotFoundError: its agent has never shown one.
        RefusedError: what is there is not the site's own.
        ExchangeError: the store does not answer.
    """
    key = Layout(federation).card(keys.name)
    at = store.stat(key).modified
    envelope = store.get(key, limit=Card.largest)
    card = open_envelope(envelope, Card, keys, federation=federation, sender=keys.name, receiver=COORDINATOR)
    return ShownCard(card, at)


def refuse_older(journal: Journal, card: Card) -> int:
    """The number of the newest card that was noted of a site, -1 for none.

    Raises:
        ReplayError: this card has a lower one.
    """
    with journal.read() as session:
        row = session.get(CardRow, (journal.federation, card.sender))
    noted = row.counter if row is not None else -1
    if card.counter < noted:
        raise ReplayError(
            f"its card is number {card.counter}, {noted} was seen before: the store shows an old one, or the "
            "site lost its memory and needs new keys (`fedllm site rekey`)"
        )
    return noted


def note_number(journal: Journal, card: Card) -> None:
    """Note a card's number, which only rises. Raises `ReplayError` when it fell."""
    if card.counter > refuse_older(journal, card):
        row = CardRow(federation=journal.federation, site=card.sender, counter=card.counter)
        with journal.write() as session:
            session.merge(row)
