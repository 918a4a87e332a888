"""Wait for one site's outcome in a plan, until the plan's deadline."""

import time
from collections.abc import Callable
from typing import Protocol

from fedllm.coordinator.training import Training
from fedllm.errors import ExchangeError, ObjectNotFoundError, RefusedError
from fedllm.journal.outcomes import SiteOutcome
from fedllm.protocol.messages import Plan, PublicKeys
from fedllm.text import one_line

POLL = 0.4  # s between looks at a site's objects
ROSTER = 2.0  # s between checks that the site is still in the roster
GRACE = 2.0  # s after the deadline in which an upload that began in time may end


class Look(Protocol):
    """Reads one site's objects."""

    def look(self) -> SiteOutcome | None:
        """Return the site's outcome, or None while it is still at work.

        Raises:
            RefusedError: an object of the site is invalid.
            ExchangeError: the store does not answer.
        """


def wait_for_site(
    training: Training,
    plan: Plan,
    site: str,
    watch: Callable[[PublicKeys], Look],
    say: Callable[[str], None],
) -> SiteOutcome:
    """Poll until the site has an outcome, and return it; a silent site gets one at the deadline.

    Args:
        training: the training.
        plan: that the site works on.
        site: its name.
        watch: makes the watcher from the site's current keys.
        say: called with lines of progress.

    Raises:
        ExchangeError: the store does not answer after the deadline.
    """
    if (keys := member(training, site)) is None:
        return _not_a_member(site)
    watcher = watch(keys)
    roster_due = time.monotonic() + ROSTER
    while True:
        training.check()
        if time.monotonic() >= roster_due:
            if member(training, site) != keys:
                return _not_a_member(site)
            roster_due = time.monotonic() + ROSTER
        try:
            done = watcher.look()
        except RefusedError as error:
            training.journal.security.refused(error, site, training.run, plan.round)
            return SiteOutcome(site=site, status="refused", reason=one_line(str(error)))
        except ExchangeError as error:
            if training.now() > plan.deadline + GRACE and not isinstance(error, ObjectNotFoundError):
                raise  # unknown whether the update came in time
            say(f"the store does not answer: {error}")
            done = None
        if done is not None:
            say(f"{site}: {done.status} {done.reason}".rstrip())
            return done
        if training.now() > plan.deadline + GRACE:
            return SiteOutcome(site=site, status="silent", reason="nothing came before the deadline")
        training.stopping.wait(POLL)


def member(training: Training, site: str) -> PublicKeys | None:
    """Return a site's keys from the newest roster; None if it is not in it."""
    return next((entry for entry in training.roster.sites if entry.name == site), None)


def _not_a_member(site: str) -> SiteOutcome:
    return SiteOutcome(site=site, status="refused", reason="it is no longer in the roster with these keys")
