"""The privacy audit as a flow: ledgers, one training with canaries, membership; weekly by its deployment.

On the coordinator's Prefect it verifies the ledgers that the sites have shown, as far as the coordinator
keeps them. It cannot look at a real site's data, and no site lets a coordinator train with canaries: there
the site runs `fedllm audit`, or this flow with `home` on a Prefect of its own, and the results stay there.
The trainings run here only where the configuration has a `simulation`, on one simulated site's data.
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
from flows.output import log_errors_in_one_line, outlive_readers
from flows.tasks import unless_away

_STEP: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}  # results are private


@flow(name="privacy-audit", flow_run_name=run_name, persist_result=False, log_prints=True)
def privacy_audit(
    config_uri: str = "params.yaml",
    home: str | None = None,
    site: str | None = None,
    canaries: int = CANARIES,
    claim: float | None = None,
) -> dict[str, Any]:
    """Look for a broken ledger, and for a training that spends more epsilon than it claims.

    A lower bound on epsilon can refute a claim and never confirms one.

    Args:
        config_uri: the federation's YAML file.
        home: a site's folder, when the site runs this on its own Prefect; its ledger is verified.
        site: a simulated site; the first if none is named.
        canaries: how many; half of them are guessed.
        claim: the epsilon to hold the training against; what the accounting comes to if it is not given.

    Returns:
        The `fedllm.audit/1` object; None stands for what cannot be looked at from here.

    Raises:
        FedllmError: a broken ledger, or a violation; the flow run ends as Failed.
    """
    outlive_readers()
    log_errors_in_one_line()
    config = load_federation(config_uri)
    subject = _subject(config, home, site)
    ledgers = verify_ledgers(config, subject if home else None)
    found = members = None
    if subject is not None:
        found = one_run_audit(config, subject, canaries, claim)
        members = membership(config, subject)
    findings = Findings(ledgers, found, members, config.privacy.unit)
    unless_away(lambda: _show(config, findings))
    if findings.fault is not None:
        raise FedllmError(findings.fault)
    return findings.public_json()


def _subject(config: FederationConfig, home: str | None, site: str | None) -> Subject | None:
    """Whose data can be looked at from here, if anybody's."""
    if home is not None:
        return site_at(Path(home))
    return simulated_site(config, site) if config.simulation is not None else None


@task(name="verify-ledgers", **_STEP)
def verify_ledgers(config: FederationConfig, subject: Subject | None) -> list[Row]:
    """A site's own ledgers, or those that the coordinator keeps."""
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
    """A training with canaries, which is thrown away."""
    found = audit_one_run(config, subject, canaries=canaries, claim=claim)
    if found is not None:
        get_run_logger().info("%s: %s", subject.name, found.words)
    return found


@task(name="membership", **_STEP)
def membership(config: FederationConfig, subject: Subject) -> MembershipReport:
    """A training on half of the data, which is thrown away."""
    return report_membership(config, subject)


def _show(config: FederationConfig, findings: Findings) -> None:
    create_table_artifact(
        key=f"{config.name}-privacy-audit",
        table=findings.rows,
        description="What the newest privacy audit found",
    )
    lines = "\n".join(f"- **{row['check']}**: {row['finding']}" for row in findings.rows)
    create_markdown_artifact(
        key=f"{config.name}-privacy-audit-report",
        markdown=f"# Privacy audit of {config.name}\n\n{lines}\n\n{_REMARKS}\n",
        description="The newest privacy audit, in words",
    )


_REMARKS = (
    "A one-run audit (Steinke et al. 2023, arXiv 2305.08846) gives a lower bound on epsilon: it can refute "
    "a claim and never confirms one. Membership is a heuristic: an attack that fails says nothing of a "
    f"better one. {STAYS}"
)
