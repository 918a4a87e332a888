"""Which sites a round can be planned with, by their cards; and whom it waits for, and why."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fedllm.coordinator.cards import PREPARING, note_number, shown_card
from fedllm.coordinator.training import Training
from fedllm.errors import ObjectNotFoundError, RefusedError, RoundError
from fedllm.milestones import Waiting, report
from fedllm.protocol.messages import Card, PublicKeys
from fedllm.text import one_line

log = logging.getLogger(__name__)

_LOOK = 0.3  # s between two looks
_DAY = 86_400.0  # s


@dataclass(frozen=True)
class _Look:
    """What was seen of a site: the card of a live one, or why it is not."""

    card: Card | None
    why: str = ""  # said after the site's name
    preparing: bool = False


def live_sites(training: Training, number: int, say: Callable[[str], None] = log.info) -> dict[str, Card]:
    """Wait for the sites that a round can be planned with.

    A training begins when all are live or `rounds.join` has passed; its later rounds wait for `min_sites`.
    While these are too few, a site that is preparing is waited for as long as a round may take.

    Args:
        training: the training.
        number: of the round.
        say: hears whom it waits for and why, each time that this changes.

    Returns:
        The card of each live site that can be given a weight, by name.

    Raises:
        RoundError: they are fewer than `min_sites`.
    """
    rounds = training.config.rounds
    enough = rounds.min_sites if number > 1 else len(training.roster.sites)
    asked = [s for s in training.roster.sites if training.sites is None or s.name in training.sites]
    enough = min(enough, len(asked))
    begun, said = time.monotonic(), ""
    while True:
        training.check()
        looks = {site.name: _look(training, site, number) for site in asked}
        found = {name: look.card for name, look in looks.items() if look.card is not None}
        cards = {name: card for name, card in found.items() if _weighable(training, card)}
        if len(cards) >= enough or not _is_worth_waiting(training, len(cards), looks, begun):
            break
        line = _waiting(training, looks, cards, enough - len(cards))
        if line != said:
            said = line
            say(line)
            report(Waiting(line))
        training.stopping.wait(_LOOK)
    if said:
        report(Waiting())
    untold = sorted(found.keys() - cards.keys())
    for name in untold:
        log.warning("%s has told no examples to weigh it by: left out", name)
    if len(cards) < rounds.min_sites:
        raise RoundError(
            f"{len(cards)} of {len(asked)} sites are live, rounds.min_sites is {rounds.min_sites}: "
            f"{_advice(looks, untold)}"
        )
    return cards


def _is_worth_waiting(training: Training, live: int, looks: Mapping[str, _Look], begun: float) -> bool:
    """Whether a further look may find more sites."""
    return time.monotonic() - begun < _patience(training, live, looks)


def _patience(training: Training, live: int, looks: Mapping[str, _Look]) -> float:
    """How long to wait in all, s."""
    rounds = training.config.rounds
    preparing = any(look.preparing for look in looks.values())
    return max(rounds.join, rounds.deadline) if preparing and live < rounds.min_sites else rounds.join


def _waiting(training: Training, looks: Mapping[str, _Look], live: Collection[str], missing: int) -> str:
    why = [
        f"{name} {look.why or 'has told no examples to weigh it by'}"
        for name, look in sorted(looks.items())
        if name not in live
    ]
    patience = _patience(training, len(live), looks)
    return f"waiting for {missing} of {len(looks)}, {patience:.0f} s at most: {'; '.join(why)}"


def _advice(looks: Mapping[str, _Look], untold: list[str]) -> str:
    away = sorted(name for name, look in looks.items() if look.card is None and not look.preparing)
    advice = [f"start the agents of {', '.join(away)}"] if away else []
    if preparing := sorted(name for name, look in looks.items() if look.preparing):
        advice.append(f"begin again when the agents of {', '.join(preparing)} have prepared their base model")
    if untold:
        advice.append(
            f"set aggregation.weighting to equal, since {', '.join(untold)} told no examples to weigh by "
            "(tell_count in site.yaml)"
        )
    return ", and ".join(advice) or "more sites have to join"


def _weighable(training: Training, card: Card) -> bool:
    """Whether a site told what its weight rests on; it keeps its count to itself unless its owner says so."""
    return training.config.aggregation.weighting != "examples" or bool(card.examples)


def _look(training: Training, site: PublicKeys, number: int) -> _Look:
    """A site's card when it is fresh by the store's clock and says that the site can take part."""
    try:
        now, shown = training.now(), shown_card(training.mailbox.store, training.config.name, site)
        if not shown.is_fresh(now):
            return _Look(None, f"has not been seen since {_clock(shown.at, now)}")
        note_number(training.journal, shown.card)
    except ObjectNotFoundError:
        return _Look(None, "has never been seen")
    except RefusedError as error:
        training.journal.security.refused(error, site.name, training.run, number)
        return _Look(None, f"has a card that is refused ({one_line(str(error))})")
    if shown.card.state == "stopped":
        return _Look(None, f"was stopped at {_clock(shown.at, now)}")
    if shown.card.state == "preparing":
        return _Look(None, PREPARING, preparing=True)
    return _Look(shown.card)


def _clock(at: float, now: float) -> str:
    """A time of the day, here; with its date when that was not today."""
    return time.strftime("%H:%M" if now - at < _DAY / 2 else "%Y-%m-%d %H:%M", time.localtime(at))
