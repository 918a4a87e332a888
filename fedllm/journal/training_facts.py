"""A training as its journal tells it: for the report and for the metrics, under way, failed or over."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import select

from fedllm.config import FederationConfig
from fedllm.errors import ConfigError, RefusedError
from fedllm.journal.facts import STEPS, WAIT, Quality, RoundFacts, SiteInRound, TrainingFacts
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import (
    REFUSED,
    Aggregated,
    Audited,
    Dispatched,
    Evaluated,
    FailedRound,
    Outcome,
    RefusedRelease,
    Released,
    SiteOutcome,
)
from fedllm.journal.runs import all_runs, find_run
from fedllm.journal.tables import FlowRunRow, OutboxRow, OutcomeRow, ReleaseRow, RunRow
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import COORDINATOR, Plan, PublicKeys, Roster, Verdict
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.envelope import open_envelope
from fedllm.text import one_line

Kind = TypeVar("Kind", bound=Outcome)


def training_facts(journal: Journal, run: str, *, dvc_lock_sha256: str | None = None) -> TrainingFacts:
    """Gather what a journal knows of a training.

    Args:
        journal: the federation's.
        run: the training's id.
        dvc_lock_sha256: of the data at hand; otherwise what the newest release says.

    Raises:
        ConfigError: the journal has no such training.
    """
    row = find_run(journal, run)
    if row is None or row.federation != journal.federation:
        known = ", ".join(one.run for one in reversed(all_runs(journal)[-3:])) or "none yet"
        raise ConfigError(f"{journal.federation} has no run {run} here; the newest are: {known}")
    return _Record(journal, row).facts(dvc_lock_sha256)


@dataclass(frozen=True)
class _Done:
    body: str
    at: float  # s since 1970


class _Record:
    """Everything that is on record of one training, read once."""

    def __init__(self, journal: Journal, row: RunRow) -> None:
        self._row = row
        self._federation = journal.federation
        self._security = journal.security.events(row.run)
        start = f"{journal.federation}/"
        with journal.read() as session:
            outcomes = session.scalars(select(OutcomeRow).where(OutcomeRow.run == row.run))
            self._done = {(one.round, one.step): _Done(one.body, one.at) for one in outcomes}
            releases = session.scalars(select(ReleaseRow).where(ReleaseRow.run == row.run))
            self._releases = {one.round: (json.loads(one.body), one.version) for one in releases}
            self._flow_runs = tuple(
                session.scalars(select(FlowRunRow.flow_run).where(FlowRunRow.run == row.run))
            )
            keys = {number: Layout(journal.federation).plan(row.run, number) for number in self._numbers()}
            small = [f"{start}privacy/{row.run}", f"{start}keys/{row.run}", *keys.values()]
            self._signed = {key: one.body for key in small if (one := session.get(OutboxRow, key))}
        self._ends = self._step_ends()
        roster = journal.roster()
        self._roster = Roster.model_validate_json(roster) if roster else None
        self._config = FederationConfig.model_validate_json(row.config)
        self._plans = {number: self._plan(key) for number, key in keys.items()}

    def facts(self, dvc_lock_sha256: str | None) -> TrainingFacts:
        """The training."""
        row, private = self._row, self._config.privacy.on
        zero = self._outcome(0, "baseline", Evaluated)
        champions = [e.champion for n in self._numbers() if (e := self._outcome(n, "evaluate", Evaluated))]
        told = [body for body, _ in self._releases.values()]
        plans = [plan for plan in self._plans.values() if plan is not None]
        terms = self._signed.get(f"{self._federation}/privacy/{row.run}")
        locks = [body.get("dvc_lock_sha256") for body in told]
        return TrainingFacts(
            run=row.run,
            config=self._config,
            status=row.status,
            reason=one_line(row.reason),
            started=row.started,
            finished=None if private else row.finished,
            zero_shot=_quality(zero) if zero else None,
            champion=next((dict(one) for one in reversed(champions) if one), None),
            rounds=tuple(self._round(number) for number in self._numbers()),
            privacy=PrivacyPlan.model_validate_json(terms) if terms else None,
            security=tuple(self._security),
            base_sha256=plans[-1].base_sha256 if plans else None,
            dvc_lock_sha256=dvc_lock_sha256 or next((one for one in reversed(locks) if one), None),
            flow_runs=self._flow_runs,
        )

    def _numbers(self) -> list[int]:
        return sorted({number for number, _ in self._done if number > 0})

    def _outcome(self, number: int, step: str, kind: type[Kind]) -> Kind | None:
        done = self._done.get((number, step))
        return kind.model_validate_json(done.body) if done else None

    def _plan(self, key: str) -> Plan | None:
        """A plan of this journal's own, by the key that its run began under."""
        envelope, verify = self._signed.get(key), self._signed.get(f"{self._federation}/keys/{self._row.run}")
        if envelope is None or verify is None or self._roster is None:
            return None
        recipient = self._roster.coordinator.recipient
        keys = PublicKeys(name=COORDINATOR, verify=verify.decode(), recipient=recipient)
        try:
            return open_envelope(envelope, Plan, keys, federation=self._federation, sender=COORDINATOR)
        except RefusedError:
            return None  # of another version: the report does without its sizes

    def _round(self, number: int) -> RoundFacts:
        failed = self._outcome(number, "failed", FailedRound)
        released = self._outcome(number, "release", Released)
        measured = self._outcome(number, "evaluate", Evaluated)
        made = self._outcome(number, "aggregate", Aggregated)
        return RoundFacts(
            number=number,
            state="failed" if failed else "finished" if released else "open",
            reason=one_line(failed.reason) if failed else "",
            sites=tuple(self._sites(number)),
            quality=_quality(measured) if measured else None,
            drift=made.drift if made else None,
            model_sha256=made.model.sha256 if made else None,
            version=self._version(number, released),
            seconds=self._seconds(number),
        )

    def _sites(self, number: int) -> Iterator[SiteInRound]:
        dispatched = self._outcome(number, "dispatch", Dispatched)
        closed = self._outcome(number, "dp-audit", Audited)
        verdicts = {verdict.site: verdict for verdict in closed.verdicts} if closed else {}
        plan = self._plans[number]
        down = plan.model.sealed_bytes if plan else 0
        for site in dispatched.sites if dispatched else ():
            did = self._outcome(number, f"{WAIT} {site}", SiteOutcome)
            yield _site(site, did, verdicts.get(site), down)

    def _version(self, number: int, released: Released | None) -> str:
        body_and_version = self._releases.get(number)
        if body_and_version and body_and_version[1]:
            return str(json.loads(body_and_version[1])["uri"])
        if refused := self._outcome(number, REFUSED, RefusedRelease):
            return f"refused by MLflow: {one_line(refused.reason)}"
        if body_and_version:
            return "waits for MLflow"
        return "not published" if released else ""

    def _seconds(self, number: int) -> dict[str, float]:
        """Seconds from one step's end to the next one's; an interruption counts to the step that it met."""
        ends = self._ends.get(number, {})
        earlier = next((self._ends[n] for n in range(number - 1, -1, -1) if n in self._ends), {})
        before, told = max(earlier.values(), default=self._row.started), {}
        for step in STEPS:
            if step in ends:
                told[step] = max(0.0, ends[step] - before)
                before = ends[step]
        if self._config.privacy.on:
            told.pop(WAIT, None)  # how long sites train tells how many records they drew
        return told

    def _step_ends(self) -> dict[int, dict[str, float]]:
        """When each step of each round ended, s since 1970; waiting for sites ends with the last of them."""
        ends: dict[int, dict[str, float]] = {}
        for (number, step), done in self._done.items():
            if step == REFUSED:
                continue  # of a release that was offered again, perhaps rounds later
            of_round, name = ends.setdefault(number, {}), step.partition(" ")[0]
            of_round[name] = max(done.at, of_round.get(name, 0.0))
        return ends


def _quality(measured: Evaluated) -> Quality:
    metrics = {one_line(name): value for name, value in measured.metrics.items()}
    by_group = {one_line(name): count for name, count in measured.by_group.items()}
    return Quality(metrics, measured.records, by_group, measured.metric, measured.answers)


def _site(site: str, did: SiteOutcome | None, verdict: Verdict | None, down: int) -> SiteInRound:
    reason = (did.reason if did else "") or (verdict.reason if verdict else "")
    return SiteInRound(
        site=site,
        status=did.status if did else "asked",
        reason=one_line(reason),
        accepted=verdict.accepted if verdict else None,
        epsilon=verdict.epsilon if verdict else None,
        bytes_up=did.payload.sealed_bytes if did and did.payload else 0,
        bytes_down=down,
    )
