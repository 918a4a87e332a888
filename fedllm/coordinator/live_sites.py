"""Wait for the sites that can take part in a round, by their cards, and report which are missing and why."""

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

_LOOK = 0.3  # s between two looks at the cards
_DAY = 86_400.0  # s


@dataclass(frozen=True)
class _SiteLook:
    """A site's card if it is live, else why it is not."""

    card: Card | None
    why: str = ""  # shown after the site's name
    preparing: bool = False


def live_sites(training: Training, number: int, say: Callable[[str], None] = log.info) -> dict[str, Card]:
    """Wait for enough live sites to plan a round.

    The first round waits until all sites are live or `rounds.join` has passed; later rounds wait for
    `min_sites`. While fewer than `min_sites` are live, it waits for a preparing site as long as a round may
    take.

    Args:
        training: the training.
        number: of the round.
        say: called with the sites that it waits for and why, whenever that changes.

    Returns:
        The card of each live site that can be weighted, by name.

    Raises:
        RoundError: fewer than `min_sites` such sites are live.
    """
    rounds = training.config.rounds
    enough = rounds.min_sites if number > 1 else len(training.roster.sites)
    invited = [s for s in training.roster.sites if training.sites is None or s.name in training.sites]
    enough = min(enough, len(invited))
    begun, shown_line = time.monotonic(), ""
    while True:
        training.check()
        looks = {site.name: _look(training, site, number) for site in invited}
        live = {name: look.card for name, look in looks.items() if look.card is not None}
        cards = {name: card for name, card in live.items() if _weighable(training, card)}
        if len(cards) >= enough or not _is_worth_waiting(training, len(cards), looks, begun):
            break
        line = _waiting(training, looks, cards, enough - len(cards))
        if line != shown_line:
            shown_line = line
            say(line)
            report(Waiting(line))
        training.stopping.wait(_LOOK)
    if shown_line:
        report(Waiting())
    uncounted = sorted(live.keys() - cards.keys())
    for name in uncounted:
        log.warning("%s has not published its example count, so it has no weight: left out", name)
    if len(cards) < rounds.min_sites:
        raise RoundError(
            f"{len(cards)} of {len(invited)} sites are live, rounds.min_sites is {rounds.min_sites}: "
            f"{_advice(looks, uncounted)}"
        )
    return cards


def _is_worth_waiting(training: Training, live: int, looks: Mapping[str, _SiteLook], begun: float) -> bool:
    """Return whether to look again for more live sites."""
    return time.monotonic() - begun < _patience(training, live, looks)


def _patience(training: Training, live: int, looks: Mapping[str, _SiteLook]) -> float:
    """Return how long to wait in total, in s."""
    rounds = training.config.rounds
    preparing = any(look.preparing for look in looks.values())
    return max(rounds.join, rounds.deadline) if preparing and live < rounds.min_sites else rounds.join


def _waiting(training: Training, looks: Mapping[str, _SiteLook], live: Collection[str], missing: int) -> str:
    why = [
        f"{name} {look.why or 'has not published its example count'}"
        for name, look in sorted(looks.items())
        if name not in live
    ]
    patience = _patience(training, len(live), looks)
    return f"waiting for {missing} of {len(looks)}, {patience:.0f} s at most: {'; '.join(why)}"


def _advice(looks: Mapping[str, _SiteLook], uncounted: list[str]) -> str:
    away = sorted(name for name, look in looks.items() if look.card is None and not look.preparing)
    advice = [f"start the agents of {', '.join(away)}"] if away else []
    if preparing := sorted(name for name, look in looks.items() if look.preparing):
        advice.append(f"begin again when the agents of {', '.join(preparing)} have prepared their base model")
    if uncounted:
        advice.append(
            f"set aggregation.weighting to equal, since {', '.join(uncounted)} published no example count "
            "(tell_count in site.yaml)"
        )
    return ", and ".join(advice) or "more sites have to join"


def _weighable(training: Training, card: Card) -> bool:
    """Return whether a site can be weighted: it publishes its number of examples only if allowed."""
    return training.config.aggregation.weighting != "examples" or bool(card.examples)


def _look(training: Training, site: PublicKeys, number: int) -> _SiteLook:
    """Read a site's card and judge, by the store's clock, whether the site can take part."""
    try:
        now, shown = training.now(), shown_card(training.mailbox.store, training.config.name, site)
        if not shown.is_fresh(now):
            return _SiteLook(None, f"has not been seen since {_clock(shown.at, now)}")
        note_number(training.journal, shown.card)
    except ObjectNotFoundError:
        return _SiteLook(None, "has never been seen")
    except RefusedError as error:
        training.journal.security.refused(error, site.name, training.run, number)
        return _SiteLook(None, f"has a card that is refused ({one_line(str(error))})")
    if shown.card.state == "stopped":
        return _SiteLook(None, f"was stopped at {_clock(shown.at, now)}")
    if shown.card.state == "preparing":
        return _SiteLook(None, PREPARING, preparing=True)
    return _SiteLook(shown.card)


def _clock(at: float, now: float) -> str:
    """Format a local time of day; with its date if it is over 12 h ago."""
    return time.strftime("%H:%M" if now - at < _DAY / 2 else "%Y-%m-%d %H:%M", time.localtime(at))
