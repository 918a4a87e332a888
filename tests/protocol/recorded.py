"""A real federation on a folder, with everything that it ever showed kept for a second reader."""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedllm.agent.job import Workbench
from fedllm.agent.join import Membership
from fedllm.config import FederationConfig
from fedllm.coordinator.round_keys import round_identity
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import DP_AUDIT, JournaledRunner, Step
from fedllm.coordinator.training import open_training
from fedllm.data.records import write_records
from fedllm.errors import ObjectNotFoundError
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.store import ObjectInfo
from fedllm.simulation import _agent_thread, join

SITES = ("east", "north", "west")
RUN = "run-a"
ROUNDS = 2


@dataclass
class Recorded:
    """What a federation left: keys and bytes, in the order in which the coordinator wrote them."""

    folder: Path
    config: FederationConfig
    written: list[tuple[str, bytes]] = field(default_factory=list)
    sites: dict[str, bytes] = field(default_factory=dict)  # what sites wrote, by key
    cards: list[tuple[str, bytes]] = field(default_factory=list)  # as they were when rounds closed
    round_keys: dict[int, str] = field(default_factory=dict)  # AGE-SECRET-KEY-1…, destroyed since

    def last(self, key: str) -> bytes:
        """What the coordinator wrote last under a key of the federation."""
        return next(data for name, data in reversed(self.written) if name == f"fed/{key}")

    def home(self, site: str) -> Path:
        return self.folder / site


class _RecordingStore(DirectoryStore):
    """A folder that remembers every write."""

    def __init__(self, folder: Path, written: list[tuple[str, bytes]]) -> None:
        super().__init__(folder)
        self._written = written

    def put(self, key: str, data: bytes) -> ObjectInfo:
        self._written.append((key, data))
        return super().put(key, data)

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        self._written.append((key, path.read_bytes()))
        return super().put_file(key, path)


class _WatchedRunner(JournaledRunner):
    """Keeps what a round destroys when it is over."""

    def __init__(self, recorded: Recorded, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # as its parent
        self._recorded = recorded

    def run(self, step: Step[Any], number: int, *rest: Any) -> Any:  # noqa: ANN401 - as its parent
        if step.name == DP_AUDIT.name:
            self._keep(number)
        return super().run(step, number, *rest)

    def _keep(self, number: int) -> None:
        training = self.training
        self._recorded.round_keys[number] = str(round_identity(training, number).opening)
        for site in SITES:
            for name in ("answer.json", "update.json", "update.bin"):
                key = f"fed/sites/{site}/{RUN}/{number}/{name}"
                card = f"fed/sites/{site}/card.json"
                self._recorded.cards.append((card, training.mailbox.store.get(card, limit=1 << 20)))
                with suppress(ObjectNotFoundError):  # a site that declined has sent its answer alone
                    self._recorded.sites[key] = training.mailbox.store.get(key, limit=1 << 20)


def record(
    folder: Path,
    privacy: Mapping[str, object] | None = None,
    before: Callable[[Membership], None] | None = None,
) -> Recorded:
    """Play two rounds of three sites with the base `tiny`. FEDLLM_HOME is the caller's care.

    Args:
        folder: where everything is.
        privacy: of the federation file.
        before: is called with each site before it takes part.
    """
    labels = ("positive", "negative")
    config = FederationConfig.model_validate(
        {
            "name": "fed",
            "model": {"base": "tiny", "adapter": {"rank": 2, "alpha": 4}},
            "task": {"labels": {label: f" {label}" for label in labels}, "template": "{text} :"},
            "rounds": {"max": ROUNDS, "patience": None, "deadline": "600s"},
            "local": {"lr": 0.02, "steps": 2, "batch_size": 2, "optimizer": "sgd" if privacy else "adamw"},
            "privacy": privacy or {},
            "store": {"url": f"file://{folder / 'store'}"},
            "simulation": {"sites": SITES},
        }
    )
    recorded = Recorded(folder, config)
    bench, lock = Workbench(), threading.Lock()
    public = folder / "public.jsonl"
    write_records(public, [{"text": f"{label} {n}", "label": label} for n in range(4) for label in labels])
    with ExitStack() as stack:
        for number, site in enumerate(SITES):
            data = folder / f"{site}.jsonl"
            count = 4 + number  # weights by examples that differ
            write_records(
                data, [{"text": f"{label} {n}", "label": label} for n in range(count) for label in labels]
            )
            member = join(config, site, data, folder / site, poll_near=0.05, poll_idle=0.05)
            if before is not None:
                before(member)
            stack.enter_context(_agent_thread(member, bench, lock))
        store = _RecordingStore(folder / "store", recorded.written)
        with open_training(config, RUN, public, store=store) as training:
            play(training, _WatchedRunner(recorded, training))
    return recorded
