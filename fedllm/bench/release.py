"""Measure how the cost of a release grows with a private training: seconds and journal reads by round."""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Engine, event, func, select

from fedllm.auditing.noise import Trained, noise_std
from fedllm.bench.home import home_in
from fedllm.config import FederationConfig
from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.members import add_site
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import DISPATCH, RELEASE, JournaledRunner, Say, Step, T
from fedllm.coordinator.training import Training, open_training
from fedllm.data.records import write_records
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox, seal_to_file
from fedllm.journal.outcomes import Dispatched
from fedllm.journal.tables import ReleaseRow
from fedllm.models.codec import encode_flat
from fedllm.privacy.configured import whole_training
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import COORDINATOR, Answer, Card, Message, Plan, Update
from fedllm.secure.envelope import sign
from fedllm.secure.identity import create_identity
from fedllm.tracking.connection import connect

SCHEMA = "fedllm.bench.release/1"
NAME = "bench-release"
MARKS = (10, 50, 100, 200)  # reported rounds, if they are played
AROUND = 2  # a mark's median includes this many rounds before and after it
_RUN = "bench"
_RECORDS = 32  # size of the public set
_AMPLE = 1.05  # factor on the plan's noise, so that an update of noise alone passes the audit
_JOURNAL = "journal.db"


@dataclass(frozen=True)
class _Release:
    """The cost of one round's release."""

    seconds: float
    cpu_seconds: float  # of this process, including MLflow's store: unaffected by other programs
    journal_reads: int
    mlflow_statements: int


def bench_release(rounds: int, sites: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Play a private federation round by round, and time each release into a real MLflow.

    Plans, updates, ledgers, audits, models and evaluations are those of the product, on the `tiny` base. Only
    the sites' training is left out: an update is noise of the plan's distribution. Everything is in a
    temporary folder: journal, store, ledgers, and MLflow's SQLite store, opened in this process.

    Args:
        rounds: number of rounds.
        sites: number of sites.
        say: receives a line every ten rounds.

    Returns:
        `{"schema", "rounds", "sites", "by_round", "ratio", "cpu_ratio", "body_bytes"}`: by_round has medians
        around rounds 10, 50, 100 and 200; the ratios compare the last of them to the first.
    """
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory(prefix="fedllm-bench-") as temporary,
        home_in(folder := Path(temporary)),
    ):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"  # as at a server
        config = _config(folder, rounds, sites)
        store = DirectoryStore(folder / "store")
        parties = [_Site(folder / f"site-{number}", f"site-{number}", store) for number in range(sites)]
        for party in parties:
            add_site(config, party.me.public)
        uri = _mlflow(folder)
        with open_training(config, _RUN, folder / "public.jsonl", store=store, tracking_uri=uri) as training:
            steps = _Timed(training, parties, say)
            play(training, steps, force=True)
            by_round = _by_round(steps.releases, rounds)
            sizes = _body_bytes(training, by_round)
    first, last = by_round[min(by_round)], by_round[max(by_round)]
    return {
        "schema": SCHEMA,
        "rounds": rounds,
        "sites": sites,
        "by_round": {str(number): medians for number, medians in by_round.items()},
        "ratio": round(last["seconds"] / first["seconds"], 2),
        "cpu_ratio": round(last["cpu_seconds"] / first["cpu_seconds"], 2),
        "body_bytes": sizes,
    }


class _Site:
    """A site that reserves, charges and signs as an agent does, but sends noise instead of training."""

    def __init__(self, folder: Path, name: str, store: DirectoryStore) -> None:
        self.me = create_identity(folder / "keys", name)
        self._folder = folder
        self._mailbox = Mailbox(store, Layout(NAME), self.me)
        self._ledger = Ledger(folder / "ledger.db", self.me)

    def show_card(self, training: Training, number: int) -> None:
        """Publish a card that shows the site as live."""
        head: dict[str, Any] = {"federation": NAME, "sender": self.me.name, "receiver": COORDINATOR}
        card = Card(
            **head,
            roster_version=training.roster.roster_version,
            counter=number,
            state="idle",
            base_sha256=training.base[1],
            cpus=1,
            fedllm="0",
        )
        self._publish(self._mailbox.layout.card(self.me.name), card)

    def take_part(self, plan: Plan, plan_sha256: str, size: int) -> None:
        """Charge a round, and send an update of `size` numbers with its new ledger entries."""
        name, run, layout = self.me.name, plan.run or "", self._mailbox.layout
        head: dict[str, Any] = {
            "federation": plan.federation,
            "sender": name,
            "receiver": COORDINATOR,
            "run": run,
            "round": plan.round,
            "roster_version": plan.roster_version,
            "plan_sha256": plan_sha256,
            "steps": plan.local.steps,
        }
        self._publish(layout.answer(name, run, plan.round), Answer(**head, decision="accept"))
        self._charge(plan)
        path = self._folder / "update"
        key = layout.payload(name, run, plan.round)
        payload = seal_to_file(encode_flat(self._noise(plan, size)), [plan.recipient], key, path)
        self._mailbox.send_payload(path, payload)
        last = max((known.seq for known in plan.ledgers.get(name, ())), default=-1)
        entries = tuple(self._ledger.entries(name, after=last, show=plan.federation))
        self._publish(layout.update(name, run, plan.round), Update(**head, payload=payload, ledger=entries))

    def _charge(self, plan: Plan) -> None:
        terms, run = plan.privacy, plan.run or ""
        assert terms is not None  # noqa: S101 - of this benchmark's own configuration
        self._ledger.reserve(
            self.me.name,
            terms.unit,
            federation=plan.federation,
            run=run,
            plan_sha256=terms.sha256,
            event=whole_training(terms, self.me.name),
            delta=terms.delta,
            limit=Limits(None, terms.delta),
        )
        self._ledger.charge(
            self.me.name, federation=plan.federation, run=run, round=plan.round, first=0, steps=terms.steps
        )

    def _noise(self, plan: Plan, size: int) -> torch.Tensor:
        """Return noise of the plan's distribution instead of a trained update; shape (size,)."""
        assert plan.privacy is not None  # noqa: S101 - of this benchmark's own configuration
        steps = plan.local.steps
        whole = Trained(self.me.name, plan.local, steps, size, 0.0, plan.round, plan.rounds, plan.privacy)
        return torch.randn(size) * noise_std(whole, plan.privacy) * _AMPLE

    def _publish(self, key: str, message: Message) -> None:
        self._mailbox.store.put(key, sign(message, self.me))


class _Timed(JournaledRunner):
    """Run the product's steps with simulated sites, and time each release."""

    def __init__(self, training: Training, sites: Sequence[_Site], say: Callable[[str], None]) -> None:
        super().__init__(training)
        self._sites = {site.me.name: site for site in sites}
        self._say = say
        self.releases: dict[int, _Release] = {}

    def run(self, step: Step[T], number: int, say: Say | None = None) -> T:
        """Run a step: publish all cards before a dispatch; time a release and count its statements."""
        if step.name == DISPATCH.name:
            for site in self._sites.values():
                site.show_card(self.training, number)
        if step.name != RELEASE.name:
            return super().run(step, number, say or self._say)
        with _statements() as counted:
            start, start_cpu = time.perf_counter(), time.process_time()
            outcome = super().run(step, number, say or self._say)
            seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        self.releases[number] = _Release(seconds, cpu, counted["journal"], counted["mlflow"])
        if number % 10 == 0:
            self._say(f"round {number}: {seconds:.2f} s, {counted['journal']} journal reads")
        return outcome

    def each(
        self, step: Step[T], number: int, sites: Sequence[str], meanwhile: Callable[[], None] = lambda: None
    ) -> Iterator[T]:
        """Let every site send its update, then run the step for all of them."""
        plan = read_plan(self.training, number)
        sha256 = self.training.journal.require(_RUN, number, "dispatch", Dispatched).plan_sha256
        size = self.training.learner().shared.layout.size
        for name in sites:
            self._sites[name].take_part(plan, sha256, size)
        return super().each(step, number, sites, meanwhile)


@contextmanager
def _statements() -> Iterator[dict[str, int]]:
    """Count this thread's reads from the journal and its statements to MLflow's store."""
    counted = {"journal": 0, "mlflow": 0}
    thread = threading.get_ident()  # another thread reads the journal to keep the lease

    def count(connection: Any, _cursor: object, statement: str, *_: object) -> None:  # noqa: ANN401 - no type
        if threading.get_ident() != thread:
            return
        if not str(connection.engine.url).endswith(_JOURNAL):
            counted["mlflow"] += 1
        elif statement.startswith("SELECT"):
            counted["journal"] += 1

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield counted
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def _by_round(releases: dict[int, _Release], rounds: int) -> dict[int, dict[str, float]]:
    """Return medians around each mark that was played."""
    medians = {}
    for mark in sorted({*(mark for mark in MARKS if mark <= rounds), rounds}):
        near = [releases[n] for n in range(mark - AROUND, mark + AROUND + 1) if n in releases]
        medians[mark] = {
            "seconds": round(statistics.median(one.seconds for one in near), 3),
            "cpu_seconds": round(statistics.median(one.cpu_seconds for one in near), 3),
            "journal_reads": statistics.median(one.journal_reads for one in near),
            "mlflow_statements": statistics.median(one.mlflow_statements for one in near),
        }
    return medians


def _body_bytes(training: Training, rounds: Sequence[int] | dict[int, Any]) -> dict[str, int]:
    """Return the size of each reported round's queued release, by round."""
    with training.journal.read() as session:
        sizes = select(ReleaseRow.round, func.length(ReleaseRow.body)).where(ReleaseRow.run == training.run)
        return {str(number): size for number, size in session.execute(sizes) if number in rounds}


def _config(folder: Path, rounds: int, sites: int) -> FederationConfig:
    """Return a federation of the smallest model under record-level DP; writes its public set."""
    texts = {"positive": "a lovely day", "negative": "an awful day"}
    records = [
        {"id": f"{label}-{number}", "text": f"{text} {number}", "label": label}
        for number in range(_RECORDS // len(texts))
        for label, text in texts.items()
    ]
    write_records(folder / "public.jsonl", records)
    return FederationConfig.model_validate(
        {
            "name": NAME,
            "model": {"base": "tiny"},
            "task": {"labels": {label: f" {label}" for label in texts}},
            "evaluation": {"public": str(folder / "public.jsonl")},
            "rounds": {"max": rounds, "min_sites": sites, "patience": None},
            "local": {"optimizer": "sgd", "lr": 1e-4, "steps": 1, "batch_size": 16},
            "privacy": {
                "unit": "record",
                "epsilon": 8.0,
                "clip": 0.1,
                "sampling_rate": 0.02,
                "noise_multiplier": 1.0,
            },
            "store": {"url": f"file://{folder / 'store'}"},
        }
    )


def _mlflow(folder: Path) -> str:
    """Create an MLflow store on SQLite with its artifacts in the folder, and return its URI."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    connect(uri).create_experiment(NAME, artifact_location=str(folder / "artifacts"))
    return uri
