"""Wait for one site's part in a plan, until its deadline."""

import time
from collections.abc import Callable
from typing import Protocol

from fedllm.coordinator.training import Training
from fedllm.errors import ExchangeError, ObjectNotFoundError, RefusedError
from fedllm.journal.outcomes import SiteOutcome
from fedllm.protocol.messages import Plan, PublicKeys
from fedllm.text import one_line

POLL = 0.4  # s between looks at what a site wrote
ROSTER = 2.0  # s between looks at whether it was revoked
GRACE = 2.0  # s after the deadline in which an upload that began in time may end


class Look(Protocol):
    """Looks at what one site wrote."""

    def look(self) -> SiteOutcome | None:
        """Return the site's outcome, or None while it is still at work.

        Raises:
            RefusedError: what it wrote is not what it should be.
            ExchangeError: the store does not answer.
        """


def wait_for_site(
    training: Training,
    plan: Plan,
    site: str,
    watch: Callable[[PublicKeys], Look],
    say: Callable[[str], None],
) -> SiteOutcome:
    """Look until the site has an outcome. One that stays silent costs the deadline and no more.

    Args:
        training: the training.
        plan: what the site was asked.
        site: its name.
        watch: makes what looks, from the keys that the site has now.
        say: shows progress to whoever watches this step.
    """
    if (keys := member(training, site)) is None:
        return _left(site)
    watcher = watch(keys)
    roster_due = time.monotonic() + ROSTER
    while True:
        training.check()
        if time.monotonic() >= roster_due:
            if member(training, site) != keys:
                return _left(site)
            roster_due = time.monotonic() + ROSTER
        try:
            done = watcher.look()
        except RefusedError as error:
            training.journal.security.refused(error, site, training.run, plan.round)
            return SiteOutcome(site=site, status="refused", reason=one_line(str(error)))
        except ExchangeError as error:
            if training.now() > plan.deadline + GRACE and not isinstance(error, ObjectNotFoundError):
                raise  # whether an update came in time cannot be said now
            say(f"the store does not answer: {error}")
            done = None
        if done is not None:
            say(f"{site}: {done.status} {done.reason}".rstrip())
            return done
        if training.now() > plan.deadline + GRACE:
            return SiteOutcome(site=site, status="silent", reason="nothing came before the deadline")
        training.stopping.wait(POLL)


def member(training: Training, site: str) -> PublicKeys | None:
    """Return a site's keys as the newest roster has them; None when it was revoked or never was in it."""
    return next((entry for entry in training.roster.sites if entry.name == site), None)


def _left(site: str) -> SiteOutcome:
    return SiteOutcome(site=site, status="refused", reason="it is not in the roster with these keys any more")
