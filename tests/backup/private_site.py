"""A site with a privacy ledger whose training is open, under fedllm's home."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from fedllm.agent.join import init_site
from fedllm.agent.memory import Memory
from fedllm.privacy.accounting import Event
from fedllm.privacy.budget import Limits
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity


@dataclass(frozen=True)
class Site:
    """A site under fedllm's home with an open training: 10 of its 100 steps are charged."""

    home: Path
    ledger: Path
    dataset: str = "ward-7"

    def promise(self, run: str) -> None:
        """Reserve 100 steps for a run."""
        with closing(Ledger(self.ledger, load_identity(self.home / "keys"))) as ledger:
            ledger.reserve(
                self.dataset,
                "record",
                federation="fed",
                run=run,
                plan_sha256="0" * 64,
                event=Event(0.01, 1.0, 100),
                delta=1e-5,
                limit=Limits(None, 1e-5),
            )

    def spend(self, number: int, steps: int) -> None:
        """Charge steps of a round."""
        with closing(Ledger(self.ledger, load_identity(self.home / "keys"))) as ledger:
            ledger.charge(self.dataset, federation="fed", run="run-1", round=number, first=0, steps=steps)

    def left(self) -> int:
        """Steps that the open training may still take."""
        with closing(Ledger(self.ledger, load_identity(self.home / "keys"))) as ledger:
            return sum(r.most - r.charged for r in ledger.state(self.dataset).reservations.values())

    def card(self) -> int:
        with closing(Memory(self.home / "memory.db")) as memory:
            return memory.value("card")

    def moved(self, old: Path, new: Path) -> "Site":
        return Site(new / self.home.relative_to(old), new / self.ledger.relative_to(old), self.dataset)


def site(home: Path, ledger: str = "ledger.db", dataset: str = "ward-7") -> Site:
    data = home.parent / "records.jsonl"
    init_site("mill", data, home)
    chosen = yaml.safe_load((home / "site.yaml").read_text()) | {"ledger": ledger, "dataset_id": dataset}
    (home / "site.yaml").write_text(yaml.safe_dump(chosen))
    with closing(Memory(home / "memory.db")) as memory:
        memory.rise("card", 5)
    made = Site(home, (home / ledger).resolve(), dataset)
    made.ledger.parent.mkdir(parents=True, exist_ok=True)
    made.promise("run-1")
    made.spend(1, 10)
    return made


def lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str = "new") -> Path:
    if (tmp_path / "home").exists():
        (tmp_path / "home").rename(tmp_path / "gone")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / new))
    return tmp_path / new
