"""Read the facts of a training from its journal, for its report and metrics, also while it runs."""

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
    """Return the facts of a training.

    Args:
        journal: the federation's.
        run: the training's id.
        dvc_lock_sha256: of the present data; None: the one in the newest release.

    Raises:
        ConfigError: the journal has no such training.
    """
    row = find_run(journal, run)
    if row is None or row.federation != journal.federation:
        newest = ", ".join(entry.run for entry in reversed(all_runs(journal)[-3:])) or "none yet"
        raise ConfigError(f"{journal.federation} has no run {run} here; the newest are: {newest}")
    return _Record(journal, row).facts(dvc_lock_sha256)


@dataclass(frozen=True)
class _Done:
    body: str
    at: float  # s since 1970


class _Record:
    """The journal's rows of one training, read once."""

    def __init__(self, journal: Journal, row: RunRow) -> None:
        self._row = row
        self._federation = journal.federation
        self._security = journal.security.events(row.run)
        start = f"{journal.federation}/"
        with journal.read() as session:
            outcomes = session.scalars(select(OutcomeRow).where(OutcomeRow.run == row.run))
            self._done = {(entry.round, entry.step): _Done(entry.body, entry.at) for entry in outcomes}
            releases = session.scalars(select(ReleaseRow).where(ReleaseRow.run == row.run))
            self._releases = {entry.round: (json.loads(entry.body), entry.version) for entry in releases}
            self._flow_runs = tuple(
                session.scalars(select(FlowRunRow.flow_run).where(FlowRunRow.run == row.run))
            )
            keys = {number: Layout(journal.federation).plan(row.run, number) for number in self._numbers()}
            small = [f"{start}privacy/{row.run}", f"{start}keys/{row.run}", *keys.values()]
            self._signed = {key: entry.body for key in small if (entry := session.get(OutboxRow, key))}
        self._ends = self._step_ends()
        roster = journal.roster()
        self._roster = Roster.model_validate_json(roster) if roster else None
        self._config = FederationConfig.model_validate_json(row.config)
        self._plans = {number: self._plan(key) for number, key in keys.items()}

    def facts(self, dvc_lock_sha256: str | None) -> TrainingFacts:
        """Return the training's facts."""
        row, private = self._row, self._config.privacy.on
        zero = self._outcome(0, "baseline", Evaluated)
        champions = [e.champion for n in self._numbers() if (e := self._outcome(n, "evaluate", Evaluated))]
        bodies = [body for body, _ in self._releases.values()]
        plans = [plan for plan in self._plans.values() if plan is not None]
        terms = self._signed.get(f"{self._federation}/privacy/{row.run}")
        locks = [body.get("dvc_lock_sha256") for body in bodies]
        return TrainingFacts(
            run=row.run,
            config=self._config,
            status=row.status,
            reason=one_line(row.reason),
            started=row.started,
            finished=None if private else row.finished,
            zero_shot=_quality(zero) if zero else None,
            champion=next((dict(metrics) for metrics in reversed(champions) if metrics), None),
            rounds=tuple(self._round(number) for number in self._numbers()),
            privacy=PrivacyPlan.model_validate_json(terms) if terms else None,
            security=tuple(self._security),
            base_sha256=plans[-1].base_sha256 if plans else None,
            dvc_lock_sha256=dvc_lock_sha256 or next((lock for lock in reversed(locks) if lock), None),
            flow_runs=self._flow_runs,
        )

    def _numbers(self) -> list[int]:
        return sorted({number for number, _ in self._done if number > 0})

    def _outcome(self, number: int, step: str, kind: type[Kind]) -> Kind | None:
        done = self._done.get((number, step))
        return kind.model_validate_json(done.body) if done else None

    def _plan(self, key: str) -> Plan | None:
        """Return a plan of this journal, verified with the key its run began with; None if unreadable."""
        envelope, verify = self._signed.get(key), self._signed.get(f"{self._federation}/keys/{self._row.run}")
        if envelope is None or verify is None or self._roster is None:
            return None
        recipient = self._roster.coordinator.recipient
        keys = PublicKeys(name=COORDINATOR, verify=verify.decode(), recipient=recipient)
        try:
            return open_envelope(envelope, Plan, keys, federation=self._federation, sender=COORDINATOR)
        except RefusedError:
            return None  # of another fedllm version: the report omits its sizes

    def _round(self, number: int) -> RoundFacts:
        failed = self._outcome(number, "failed", FailedRound)
        released = self._outcome(number, "release", Released)
        measured = self._outcome(number, "evaluate", Evaluated)
        aggregated = self._outcome(number, "aggregate", Aggregated)
        return RoundFacts(
            number=number,
            state="failed" if failed else "finished" if released else "open",
            reason=one_line(failed.reason) if failed else "",
            sites=tuple(self._sites(number)),
            quality=_quality(measured) if measured else None,
            drift=aggregated.drift if aggregated else None,
            model_sha256=aggregated.model.sha256 if aggregated else None,
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
            outcome = self._outcome(number, f"{WAIT} {site}", SiteOutcome)
            yield _site(site, outcome, verdicts.get(site), down)

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
        """Return the seconds from each step's end to the next one's; a step includes its interruptions."""
        ends = self._ends.get(number, {})
        earlier = next((self._ends[n] for n in range(number - 1, -1, -1) if n in self._ends), {})
        before, seconds = max(earlier.values(), default=self._row.started), {}
        for step in STEPS:
            if step in ends:
                seconds[step] = max(0.0, ends[step] - before)
                before = ends[step]
        if self._config.privacy.on:
            seconds.pop(WAIT, None)  # training times reveal how many records the sites drew
        return seconds

    def _step_ends(self) -> dict[int, dict[str, float]]:
        """Return the end of each round's steps, s since 1970; a per-site step ends with its last site."""
        ends: dict[int, dict[str, float]] = {}
        for (number, step), done in self._done.items():
            if step == REFUSED:
                continue  # its release may have been offered again rounds later
            of_round, name = ends.setdefault(number, {}), step.partition(" ")[0]
            of_round[name] = max(done.at, of_round.get(name, 0.0))
        return ends


def _quality(measured: Evaluated) -> Quality:
    metrics = {one_line(name): value for name, value in measured.metrics.items()}
    by_group = {one_line(name): count for name, count in measured.by_group.items()}
    return Quality(metrics, measured.records, by_group, measured.metric, measured.answers)


def _site(site: str, outcome: SiteOutcome | None, verdict: Verdict | None, down: int) -> SiteInRound:
    reason = (outcome.reason if outcome else "") or (verdict.reason if verdict else "")
    return SiteInRound(
        site=site,
        status=outcome.status if outcome else "asked",
        reason=one_line(reason),
        accepted=verdict.accepted if verdict else None,
        epsilon=verdict.epsilon if verdict else None,
        bytes_up=outcome.payload.sealed_bytes if outcome and outcome.payload else 0,
        bytes_down=down,
    )
