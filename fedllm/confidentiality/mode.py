"""The contract of a mode of confidentiality: who can see a single update, and how it is exchanged.

A mode has a half at the site and a half at the coordinator. It declares its phases in order: in the first one
sites train and upload; in each later one the coordinator queries every site whose update came, and the site
replies. Quotas, the round's steps, the checks that dp-audit cannot make and the docs' table come from here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedllm.auditing.noise import Trained
from fedllm.config import FederationConfig
from fedllm.protocol.messages import Counted, Plan, Sealed, Verdict

if TYPE_CHECKING:
    import torch

TRAIN = "remote-local-train"  # the first phase of every mode

Combine = Callable[[Iterable[tuple[int, "torch.Tensor"]]], "torch.Tensor"]


@dataclass(frozen=True)
class SiteObject:
    """An object that each site may write below its own prefix of a round."""

    name: str  # the last part of its key
    most_bytes: Callable[[Plan], int]


@dataclass(frozen=True)
class Phase:
    """One exchange with the sites; its name is a step's in the journal, in Prefect and in reports."""

    name: str
    objects: tuple[SiteObject, ...]


class RoundView(Protocol):
    """One round as a coordinator's half sees it."""

    @property
    def plan(self) -> Plan:
        """The signed plan."""

    @property
    def size(self) -> int:
        """How many numbers are shared, n."""

    def fetch(self, update: Sealed) -> bytes:
        """Download a site's upload and open it with the round's own key.

        Raises:
            RefusedError: a size or a hash is not the signed one, or it is sealed for another key.
            ObjectNotFoundError: it is not in the store.
        """

    def keep(self, update: Sealed, opened: bytes) -> None:
        """Keep opened bytes on the coordinator's disk: only checked bytes count."""

    def read(self, update: Sealed) -> bytes:
        """Return the kept bytes; fetch them if another coordinator audited the update."""

    def replies(self, phase: str) -> Mapping[str, str]:
        """Return the replies in a later phase, by site."""


class SiteHalf(Protocol):
    """What a site does with its update."""

    def conceal(self, plan: Plan, update: bytes, key: str, path: Path) -> Sealed:
        """Write the upload of an encoded update to `path`, and return its description.

        Called once per round, before the site commits, so its random numbers are drawn once.
        """

    def reply(self, plan: Plan, phase: str, query: str) -> str:
        """Return the reply to the coordinator in a later phase.

        Called once per phase; the reply is committed before it is sent.

        Raises:
            RefusedError: the query is not one that an honest coordinator makes.
        """


class CoordinatorHalf(Protocol):
    """What the coordinator does with the sites' uploads."""

    def inspect(self, view: RoundView, update: Sealed, trained: Trained) -> Verdict:
        """Check one site's upload, as far as this mode lets the coordinator see it.

        Raises:
            RefusedError, ObjectNotFoundError: the upload cannot be fetched or opened.
        """

    def query(self, view: RoundView, phase: str, site: str) -> str:
        """Return the query to a site in a later phase; called once per site and phase."""

    def total(self, view: RoundView, counted: Sequence[Counted], combine: Combine) -> "torch.Tensor":
        """Combine the updates that count, in the order of `closed.json`; float32, shape (n,)."""


@dataclass(frozen=True)
class Mode:
    """One mode of confidentiality.

    Attributes:
        name: in the federation file and in plans.
        who_sees: who can see a single update, for the docs' table.
        phases: in order; the first is the training.
        unobservable: checks of dp-audit that the coordinator cannot make.
        conflict: returns in one line why a configuration conflicts with this mode; None if it does not.
        site: the site's half.
        coordinator: the coordinator's half.
    """

    name: str
    who_sees: str
    phases: tuple[Phase, ...]
    unobservable: tuple[str, ...]
    conflict: Callable[[FederationConfig], str | None]
    site: SiteHalf
    coordinator: CoordinatorHalf

    @property
    def objects(self) -> tuple[SiteObject, ...]:
        """All objects that a site may write in a round."""
        return tuple(one for phase in self.phases for one in phase.objects)

    @property
    def later(self) -> tuple[Phase, ...]:
        """The phases after the training."""
        return self.phases[1:]
