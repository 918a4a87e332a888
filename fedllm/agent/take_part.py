"""Run a site's agent as a process: it takes part in one federation until it is stopped."""

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock

from fedllm.agent.agent import Agent, log_to, sole_agent
from fedllm.agent.card import preparing
from fedllm.agent.join import Membership, accept_invitation
from fedllm.agent.limits import memory_limit
from fedllm.agent.trainers import ChildTrainer
from fedllm.models.base import resolve_base
from fedllm.secure.identity import fingerprint

log = logging.getLogger(__name__)


def take_part(  # noqa: PLR0913 - as many as the verb has options
    invitation: Path,
    home: Path,
    *,
    log_file: Path | None = None,
    coordinator: str | None = None,
    patience: float = 0.0,
    stop: threading.Event | None = None,
    beside: Callable[[Agent], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Run the agent of a site; return when `stop` is set, or at SIGTERM or SIGINT.

    Args:
        invitation: the file that the coordinator made for this site.
        home: the site's folder.
        log_file: takes the log; None: stderr.
        coordinator: fingerprint that the invitation's coordinator must have.
        patience: s to wait for a former agent of this home to end.
        stop: an event that also ends it.
        beside: makes a context that is open while the agent runs, such as a metrics server.

    Raises:
        IdentityError: the invitation is not for this site, or another agent runs for it.
        ModelError: the site's base model cannot be found.
    """
    stop = stop or threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log_to(log_file)
    member = accept_invitation(invitation, home, expected=coordinator)
    lock = sole_agent(member.home, patience)
    try:
        with preparing(member):
            agent = _prepared(member, log_file, lock, checked=coordinator is not None)
        try:
            with beside(agent):
                agent.run(stop)
        finally:
            agent.close()
    finally:
        lock.release()


def _prepared(member: Membership, log_file: Path | None, lock: FileLock, *, checked: bool) -> Agent:
    """Make the agent with its base model; fetching or converting the model may take minutes."""
    base = resolve_base(member.site.base)
    memory = memory_limit(member.site.policy)
    trainer = ChildTrainer(log_file, base, memory)  # first: its loading takes longer than all that follows
    mark = fingerprint(member.invitation.coordinator)
    check = "as --coordinator says" if checked else "not checked: compare it by telephone, with --coordinator"
    log.info("%s takes part; the coordinator is %s (%s)", member.site.name, mark, check)
    log.info("a training may take %d MiB of memory and %.6g s", memory >> 20, member.site.policy.max_training)
    return Agent(member, trainer, lock=lock)
