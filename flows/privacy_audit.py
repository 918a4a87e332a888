"""Run the privacy audit as a flow: ledgers, one training with canaries, membership. Deployed weekly.

On the coordinator's Prefect it verifies the sites' ledgers as far as the coordinator keeps them. It cannot
read a real site's data, and no site lets a coordinator train with canaries: such a site runs `fedllm audit`,
or this flow with `home` on its own Prefect, and the results stay there. The trainings run here only if the
configuration has a `simulation`, on one simulated site's data.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from fedllm.auditing.membership import MembershipReport
from fedllm.auditing.one_run import OneRunAudit
from fedllm.auditing.site import CANARIES, STAYS, Findings, Row, Subject, simulated_site, site_at, verify_site
from fedllm.auditing.site import membership_report as report_membership
from fedllm.auditing.site import one_run as audit_one_run
from fedllm.config import FederationConfig, load_federation
from fedllm.errors import FedllmError
from flows.names import run_name
from flows.output import log_errors_in_one_line, survive_broken_pipes
from flows.tasks import best_effort

_STEP: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}  # results are private


@flow(name="privacy-audit", flow_run_name=run_name, persist_result=False, log_prints=True)
def privacy_audit(
    config_uri: str = "params.yaml",
    home: str | None = None,
    site: str | None = None,
    canaries: int = CANARIES,
    claim: float | None = None,
) -> dict[str, Any]:
    """Search for a broken ledger, and for a training that spends more epsilon than it claims.

    A lower bound of epsilon can refute a claim but not confirm one.

    Args:
        config_uri: the federation's YAML file.
        home: a site's folder, if the site runs this on its own Prefect; its ledger is verified.
        site: a simulated site; default: the first.
        canaries: number of canaries; half of them are guessed.
        claim: the epsilon to test; default: the accounted epsilon.

    Returns:
        The `fedllm.audit/1` object; None stands for what cannot be audited here.

    Raises:
        FedllmError: A ledger is broken, or the claim is violated; the flow run ends as Failed.
    """
    survive_broken_pipes()
    log_errors_in_one_line()
    config = load_federation(config_uri)
    subject = _subject(config, home, site)
    ledgers = verify_ledgers(config, subject if home else None)
    one_run = members = None
    if subject is not None:
        one_run = one_run_audit(config, subject, canaries, claim)
        members = membership(config, subject)
    findings = Findings(ledgers, one_run, members, config.privacy.unit)
    best_effort(lambda: _show(config, findings))
    if findings.fault is not None:
        raise FedllmError(findings.fault)
    return findings.public_json()


def _subject(config: FederationConfig, home: str | None, site: str | None) -> Subject | None:
    """Return the site whose data can be audited here; None if there is none."""
    if home is not None:
        return site_at(Path(home))
    return simulated_site(config, site) if config.simulation is not None else None


@task(name="verify-ledgers", **_STEP)
def verify_ledgers(config: FederationConfig, subject: Subject | None) -> list[Row]:
    """Verify a site's own ledgers, or those that the coordinator keeps."""
    if subject is not None:
        return verify_site(subject)
    from fedllm.journal.journal import Journal
    from fedllm.journal.ledgers import verify_ledgers as verify_kept

    with closing(Journal(config.name)) as journal:
        return verify_kept(journal)


@task(name="one-run-audit", **_STEP)
def one_run_audit(
    config: FederationConfig, subject: Subject, canaries: int, claim: float | None
) -> OneRunAudit | None:
    """Train with canaries, discard the model, and return the lower bound; None without a claim."""
    audit = audit_one_run(config, subject, canaries=canaries, claim=claim)
    if audit is not None:
        get_run_logger().info("%s: %s", subject.name, audit.words)
    return audit


@task(name="membership", **_STEP)
def membership(config: FederationConfig, subject: Subject) -> MembershipReport:
    """Train on half of the data, discard the model, and return the result of the attack."""
    return report_membership(config, subject)


def _show(config: FederationConfig, findings: Findings) -> None:
    create_table_artifact(
        key=f"{config.name}-privacy-audit",
        table=findings.rows,
        description="Findings of the newest privacy audit",
    )
    lines = "\n".join(f"- **{row['check']}**: {row['finding']}" for row in findings.rows)
    create_markdown_artifact(
        key=f"{config.name}-privacy-audit-report",
        markdown=f"# Privacy audit of {config.name}\n\n{lines}\n\n{_REMARKS}\n",
        description="Report of the newest privacy audit",
    )


_REMARKS = (
    "A one-run audit (Steinke et al. 2023, arXiv 2305.08846) gives a lower bound on epsilon: it can refute "
    "a claim and never confirms one. Membership is a heuristic: an attack that fails says nothing of a "
    f"better one. {STAYS}"
)
