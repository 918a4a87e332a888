"""What a chain has spent and promised, as the product reads it: by its reservations."""

from collections import Counter
from collections.abc import Iterable

from fedllm.privacy.accounting import Event
from fedllm.privacy.chain import LedgerEntry, state_of


def spent_events(entries: Iterable[LedgerEntry], run: str | None = None) -> list[Event]:
    """What was charged, in one run or in all; one event for each q and sigma."""
    found = state_of(entries).reservations.values()
    mine = [r for r in found if run is None or (r.entry.context and r.entry.context.run == run)]
    return _summed(r.event(r.charged) for r in mine)


def committed_events(entries: Iterable[LedgerEntry]) -> list[Event]:
    """Charges, and all promised steps of open reservations."""
    return _summed(reservation.committed for reservation in state_of(entries).reservations.values())


def _summed(events: Iterable[Event]) -> list[Event]:
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[event.sampling_rate, event.noise_multiplier] += event.steps
    return [Event(*kind, count) for kind, count in steps.items() if count]
