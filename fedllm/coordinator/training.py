"""A training at its coordinator: the resources that every step needs, opened once."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fedllm.confidentiality.mode import Mode
from fedllm.confidentiality.modes import MODES
from fedllm.config import FederationConfig
from fedllm.config.home import private_dir
from fedllm.coordinator.head import point_head
from fedllm.coordinator.members import coordinator_identity, publish_roster, roster_of, store_access
from fedllm.errors import CancelledError, ConfigError, FedllmError, RoundError
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.location import coordinator_folder
from fedllm.journal.runs import begin_run, find_run, play_by
from fedllm.models.base import resolve_base
from fedllm.models.folder import fingerprint
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Message, Roster
from fedllm.schedule.schedule import Schedule
from fedllm.schedule.schedules import SCHEDULES
from fedllm.secure.envelope import sign

if TYPE_CHECKING:
    import torch

    from fedllm.training.learner import Learner

M = TypeVar("M", bound=Message)


@dataclass
class Training:
    """A training under this coordinator's lease."""

    config: FederationConfig
    run: str
    journal: Journal
    mailbox: Mailbox
    epoch: int
    public: Path  # the public evaluation set
    sites: tuple[str, ...] | None  # sites that may take part; None: the whole roster
    tracking_uri: str | None  # None: nothing is published
    prefect_flow_run: str | None = None
    dvc_lock_sha256: str | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    stop_cause: FedllmError | None = None
    _learner: "Learner | None" = None
    _initial: "torch.Tensor | None" = None
    _clock: StoreClock | None = None
    _base: tuple[Path, str] | None = None

    @property
    def mode(self) -> Mode:
        """The federation's mode of confidentiality."""
        return MODES[self.config.confidentiality]

    @property
    def schedule(self) -> Schedule:
        """The federation's schedule: which sites train when, and when a version is due."""
        return SCHEDULES[self.config.rounds.mode]

    @property
    def layout(self) -> Layout:
        """The federation's keys in the store."""
        return self.mailbox.layout

    @property
    def folder(self) -> Path:
        """The run's own files on the coordinator's disk."""
        return private_dir(coordinator_folder(self.config.name) / "runs" / self.run)

    @property
    def base(self) -> tuple[Path, str]:
        """The base model's folder and fingerprint."""
        if self._base is None:
            folder = resolve_base(self.config.model.base)
            self._base = folder, fingerprint(folder)
        return self._base

    @property
    def roster(self) -> Roster:
        """The newest roster: sites may join while a training runs."""
        return roster_of(self.journal, self.mailbox.me)

    def learner(self) -> "Learner":
        """Return the base model with the federation's adapter and task; load it on first use."""
        if self._learner is None:
            from fedllm.tasks.load import load_learner

            config = self.config
            self._learner = load_learner(self.base[0], config.model.adapter, config.seed, config.task)
            self._initial = self._learner.shared.read()
        return self._learner

    def initial(self) -> "torch.Tensor":
        """Return the adapter's shared part before the first round, flat: (n,) fp32."""
        self.learner()
        assert self._initial is not None  # noqa: S101 - set with the adapter
        return self._initial

    def now(self) -> float:
        """Return the time by the store's clock, in s since 1970."""
        if self._clock is None:
            self._clock = StoreClock(self.mailbox.store)
        return self._clock.now()

    def check(self) -> None:
        """Raise the error that stops this training, if any: a cancel or a lost lease."""
        if self.stopping.is_set():
            raise self.stop_cause or CancelledError(f"{self.run} was cancelled")

    def stop(self, cause: FedllmError) -> None:
        """Stop the training: every wait and check raises `cause`."""
        self.stop_cause = self.stop_cause or cause
        self.stopping.set()

    def own(self, key: str, kind: type[M], number: int) -> Received[M]:
        """Return the message that this coordinator signed under a key.

        It comes from the journal: the store may lose a message or show an old one.

        Raises:
            RoundError: the message is not in this journal.
        """

        def gone() -> bytes:
            raise RoundError(f"{key} is not in this journal: was another journal restored?")

        envelope = self.journal.commit_bytes(key, gone)
        return self.mailbox.open(envelope, kind, self.mailbox.me.public, run=self.run, number=number)

    def show_again(self, key: str) -> None:
        """Upload the signed message of a key again."""
        self.publish(key, _refuse_unsigned)

    def publish(self, key: str, make: Callable[[], Message]) -> bytes:
        """Sign a message once, commit it and upload it; after a crash upload the same bytes. Return them."""
        envelope = self.journal.commit_bytes(key, lambda: sign(make(), self.mailbox.me))
        self.mailbox.store.put(key, envelope)
        return envelope

    def point_head(self, number: int, plan_sha256: str | None, phase: str | None = None) -> None:
        """Publish a head that names a plan, or a phase of it; with None an idle head."""
        point_head(self.journal, self.mailbox, self.run, number, plan_sha256, phase=phase)


def _refuse_unsigned() -> Message:
    raise RoundError("nothing was signed under this key yet")


def stored_config(federation: str, run: str) -> FederationConfig | None:
    """Return the configuration that a run was started with; None if there is no such run."""
    journal = Journal(federation)
    try:
        row = find_run(journal, run)
        return FederationConfig.model_validate_json(row.config) if row else None
    finally:
        journal.close()


@contextmanager
def open_training(  # noqa: PLR0913 - what a training is made of, each named by the caller
    config: FederationConfig,
    run: str,
    public: Path,
    *,
    store: ObjectStore | None = None,
    sites: tuple[str, ...] | None = None,
    tracking_uri: str | None = None,
    prefect_flow_run: str | None = None,
    dvc_lock_sha256: str | None = None,
) -> Iterator[Training]:
    """Take the lease, and keep the training's resources open until the block ends.

    Raises:
        LeaseError: another coordinator leads this federation.
        ConfigError: the roster is empty or lacks one of `sites`, or the run began under former keys.
    """
    identity = coordinator_identity(config.name)
    journal = Journal(config.name)
    opened: list[Training] = []

    def lost(why: FedllmError) -> None:
        for training in opened:
            training.stop(why)

    try:
        with Lease(journal, run, on_lost=lost):
            roster = roster_of(journal, identity)
            unknown = sorted(set(sites or ()) - {site.name for site in roster.sites})
            if unknown:
                raise ConfigError(
                    f"not in the roster of {config.name}: {', '.join(unknown)}; add with `fedllm site add`"
                )
            connected = store or store_access(config).connect()
            if not roster.sites:
                raise ConfigError(
                    f"the roster of {config.name} is empty: add sites with `fedllm site add CARD`"
                )
            publish_roster(connected, journal, identity)
            begun_by = journal.commit_bytes(f"{config.name}/keys/{run}", identity.public.verify.encode)
            if begun_by.decode() != identity.public.verify:
                raise ConfigError(f"{run} began with former keys of the coordinator: begin a new training")
            begin_run(journal, run, config.model_dump_json())
            if prefect_flow_run is not None:
                play_by(journal, prefect_flow_run, run)
            assert journal.epoch is not None  # noqa: S101 - set by the lease
            training = Training(
                config=config,
                run=run,
                journal=journal,
                mailbox=Mailbox(connected, Layout(config.name), identity),
                epoch=journal.epoch,
                public=public,
                sites=sites,
                tracking_uri=tracking_uri,
                prefect_flow_run=prefect_flow_run,
                dvc_lock_sha256=dvc_lock_sha256,
            )
            opened.append(training)
            try:
                yield training
            finally:
                # Threads that still wait for sites end now; the old epoch fences off their writes.
                training.stop(CancelledError(f"{run} was interrupted: resume with --resume {run}"))
    finally:
        journal.close()
