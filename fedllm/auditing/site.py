"""Audit one site's privacy at the site: its ledgers, one training with canaries, and membership.

The results are about private data. They are computed and shown at the site, and nothing is sent. No budget is
charged because nothing is released: the trainings serve the audit alone, and their models are discarded.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.auditing.membership import MembershipReport
from fedllm.auditing.one_run import OneRunAudit
from fedllm.config import FederationConfig, fedllm_home, load_site
from fedllm.data.records import Record
from fedllm.errors import ConfigError, LedgerError
from fedllm.protocol.terms import NO_DP, private_terms

if TYPE_CHECKING:
    from fedllm.auditing.canaries import Kind
    from fedllm.protocol.terms import PrivacyPlan
    from fedllm.training.learner import Learner

CANARIES = 256  # half of them are guessed; if all guesses are right, this proves epsilon 3.7
WHOLE = "whole"  # verdict on a ledger without a fault
STAYS = "These results are about private data: they stay at the site, and nothing was sent."

Row = dict[str, object]  # site, dataset, entries, head, verdict
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Subject:
    """The audited site."""

    name: str
    data: Path  # JSON lines
    home: Path  # of its keys, which may be missing
    ledger: Path  # may be missing
    threads: int | None = None


def site_at(home: Path) -> Subject:
    """Return the site whose home is a folder. Raises `ConfigError` if the folder holds none."""
    site = load_site(home / "site.yaml")
    return Subject(site.name, site.data, home, site.ledger or home / "ledger.db", site.threads)


def simulated_site(config: FederationConfig, name: str | None = None) -> Subject:
    """Return a simulated site, by default the first; prepares its data if they are missing.

    Raises:
        ConfigError: The configuration has no `simulation`, or no such site.
    """
    from fedllm.data.prepare import cached_data

    if config.simulation is None:
        raise ConfigError("the configuration has no `simulation`: give the --home of a site")
    site = name or config.simulation.names[0]
    if site not in config.simulation.names:
        known = ", ".join(config.simulation.names)
        raise ConfigError(f"no simulated site is named {site!r}; known: {known}")
    home = fedllm_home() / "simulated" / config.name / site
    data = cached_data(config).sites[site]
    return Subject(site, data, home, home / "ledger.db", config.simulation.threads)


def verify_site(subject: Subject) -> list[Row]:
    """Verify a site's ledger file from the first entry on.

    Returns:
        One row per data set; empty if the site has no ledger. A broken chain is the last row.
    """
    from fedllm.privacy.ledger import Ledger
    from fedllm.secure.identity import load_identity

    if not subject.ledger.is_file():
        return []
    rows: list[Row] = []
    dataset = "all"
    try:
        with closing(Ledger(subject.ledger, load_identity(subject.home / "keys"))) as ledger:
            for dataset in ledger.datasets():
                head = ledger.verify(dataset).get(dataset)
                count = len(ledger.entries(dataset, show=None))
                rows.append(_row(subject, dataset, count, head.sha256 if head else "", WHOLE))
    except LedgerError as error:  # the first fault: the rest of the file is unreliable
        rows.append(_row(subject, dataset, 0, "", str(error)))
    return rows


def _row(subject: Subject, dataset: str, entries: int, head: str, verdict: str) -> Row:
    return {"site": subject.name, "dataset": dataset, "entries": entries, "head": head, "verdict": verdict}


def one_run(  # noqa: PLR0913 - what an audit rests on, each named by the caller
    config: FederationConfig,
    subject: Subject,
    *,
    canaries: int = CANARIES,
    kind: "Kind" = "gradient",
    claim: float | None = None,
    progress: Progress = lambda _step, _steps: None,
) -> OneRunAudit | None:
    """Train with canaries by the federation file's terms on a site's data.

    Args:
        config: the federation file: model, task, training, privacy.
        subject: the site.
        canaries: number of canaries.
        kind: of the canaries.
        claim: the epsilon to test; default: the accounted epsilon.
        progress: called after every step with (step, steps).

    Returns:
        None if the site's own training claims no privacy: without DP, or with whole sites as the unit.
    """
    from fedllm.auditing.canaries import audit_training
    from fedllm.privacy.accounting import epsilon
    from fedllm.privacy.configured import whole_training

    plan = _terms(config)
    if plan is None:
        return None
    return audit_training(
        _learner(config, subject),
        _records(subject),
        config.local,
        private_terms(plan, subject.name),
        rounds=config.rounds.max,
        claim=epsilon([whole_training(plan, subject.name)], plan.delta) if claim is None else claim,
        delta=plan.delta,
        count=canaries,
        kind=kind,
        progress=progress,
    )


def _records(subject: Subject) -> list[Record]:
    """Return a site's records without withdrawn ones; a simulated site may have no home yet."""
    from fedllm.data.forget import Forgotten
    from fedllm.data.records import read_records

    held = read_records(subject.data)
    return Forgotten.load(subject.home).keep(held) if subject.home.is_dir() else list(held)


def membership_report(
    config: FederationConfig, subject: Subject, *, progress: Progress = lambda _step, _steps: None
) -> MembershipReport:
    """Train on a random half of a site's data by the federation file's terms, and attack the model.

    With whole sites as the unit, this is the model before the site's clipping and noise.
    """
    from fedllm.auditing.held_out import attack_membership

    plan = _terms(config)
    return attack_membership(
        _learner(config, subject),
        _records(subject),
        config.local,
        private_terms(plan, subject.name) if plan else None,
        rounds=config.rounds.max,
        unit_field=config.privacy.unit_field,
        progress=progress,
    )


def _terms(config: FederationConfig) -> "PrivacyPlan | None":
    """Return the privacy terms of a training's plans; None unless a record or a person is the unit."""
    from fedllm.privacy.configured import configured_privacy

    return configured_privacy(config) if config.privacy.local else None


def _learner(config: FederationConfig, subject: Subject) -> "Learner":
    """Load the model that a federation starts from: a base with a fresh adapter."""
    import torch

    from fedllm.models.base import resolve_base
    from fedllm.tasks.load import load_learner

    if subject.threads is not None:
        torch.set_num_threads(subject.threads)
    return load_learner(resolve_base(config.model.base), config.model.adapter, config.seed, config.task)


@dataclass(frozen=True)
class Findings:
    """The results of an audit."""

    ledgers: Sequence[Row]
    one_run: OneRunAudit | None = None
    membership: MembershipReport | None = None
    unit: str = "none"  # of the configuration

    @property
    def fault(self) -> str | None:
        """Return the fault that fails the audit, a broken ledger or a violation; None if there is none."""
        for row in self.ledgers:
            if row["verdict"] != WHOLE:
                return f"the ledger of {row['dataset']} at {row['site']} is broken: {row['verdict']}"
        if self.one_run is not None and self.one_run.verdict == "violation":
            return self.one_run.words
        return None

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return one row per finding, for people."""
        rows = [
            {
                "check": f"ledger {row['site']}/{row['dataset']}",
                "finding": f"{row['verdict']}: {row['entries']} entries, head {str(row['head'])[:12]}"
                if row["verdict"] == WHOLE
                else f"broken: {row['verdict']}",
            }
            for row in self.ledgers
        ] or [{"check": "ledgers", "finding": "none here: no privacy event was recorded"}]
        rows.append({"check": "one-run audit", "finding": self.one_run.words if self.one_run else self._none})
        rows.append(
            {"check": "membership", "finding": self.membership.words if self.membership else "not observable"}
        )
        return rows

    def public_json(self) -> dict[str, Any]:
        """Return the `fedllm.audit/1` object."""
        broken = any(row["verdict"] != WHOLE for row in self.ledgers)
        verdict = ("broken" if broken else WHOLE) if self.ledgers else "none"
        run = asdict(self.one_run) if self.one_run else {"verdict": self._none}
        return {
            "schema": "fedllm.audit/1",
            "ledgers": {"verdict": verdict, "chains": list(self.ledgers)},
            "one_run": run,
            "membership": self.membership.public_json() if self.membership else None,
        }

    @property
    def _none(self) -> str:
        """Return why there was no one-run audit."""
        return NO_DP if self.unit == "none" else "not observable"
