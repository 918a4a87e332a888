"""Render the review card of a version: one screen of markdown, written from MLflow's records."""

from dataclasses import dataclass

from fedllm.protocol.terms import NO_DP
from fedllm.review.decision import decision_on
from fedllm.review.gates import first_failed
from fedllm.review.review import Review
from fedllm.review.signed_decision import reviewer_label
from fedllm.tracking.markdown import ROWS, by_importance, cell, metric, number, plain, table
from fedllm.tracking.release import OTHER_ROUTE

_NO_FLOW = "none"  # value of the tag of a version that no flow made


@dataclass(frozen=True)
class Links:
    """The addresses of the servers' pages; None without such a server."""

    mlflow: str | None
    prefect: str | None = None

    def version(self, name: str, version: str) -> str | None:
        """Return MLflow's page of a version."""
        return f"{self.mlflow}/#/models/{name}/versions/{version}" if self.mlflow else None

    def flow_run(self, flow_run: str) -> str | None:
        """Return Prefect's page of a flow run."""
        return f"{self.prefect}/runs/flow-run/{flow_run}" if self.prefect else None


def render_review(review: Review, links: Links) -> str:
    """Return the card as markdown: how to decide, the gates, then their evidence."""
    facts = review.version
    tags = facts.tags
    origin = f"Round {tags.get('fed.round', '?')} of run `{tags.get('fed.run', '?')}`"
    head = f"{origin}, by {len(facts.sites)} sites; {_replaced(review)}."
    parts = [
        f"# {facts.name}, version {facts.version}: should it become champion?",
        head,
        *_to_decide(review),
        "## Gates",
        table(["gate", "verdict", "why"], [[g.name, _bold(g.verdict), cell(g.says)] for g in review.gates]),
        "## Quality on the public set",
        _quality(review),
        "## Privacy budget",
        _budget(review),
        "## Sites",
        _sites(review),
    ]
    if former := decision_on(facts.name, facts.version, tags):
        reviewer, reason = cell(reviewer_label(former, tags)), cell(former.reason)
        parts += ["## Former decision", f"{former.verdict} by {reviewer} at {former.at}: {reason}"]
    return "\n\n".join([*parts, "## Links", _links(review, links)]) + "\n"


def _to_decide(review: Review) -> list[str]:
    """Return the section on how to decide; empty for the champion itself."""
    version, champion = review.version.version, review.aliases.champion
    if version == champion:
        return []
    failed = first_failed(review.gates)
    gates = f"The gate {failed.name} fails, so it cannot be approved." if failed else "No gate fails."
    command = (
        f"fedllm promote {version} --over {champion or 'none'} --config FILE --reviewer NAME --reason WHY"
    )
    return [
        "## How to decide",
        f"{gates} Approve or reject it in one of these places:",
        "\n".join(
            (
                f"- in a terminal: `{command}`, with `--reject` to reject it",
                "- in Prefect: the form of the flow run `promotion`",
                "- in MLflow: the tags `review.reviewer`, `review.reason`, then `review.status: approved`",
            )
        ),
        OTHER_ROUTE,
    ]


def _replaced(review: Review) -> str:
    if review.aliases.champion == review.version.version:
        return "it is the champion"
    if review.champion is None:
        return "there is no champion yet"
    return f"it would replace version {review.champion.version}"


def _bold(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "fail" else verdict


def _quality(review: Review) -> str:
    facts = review.version
    columns = [facts.metrics, facts.baseline]
    head = ["", f"version {facts.version}", "zero-shot"]
    if review.champion is not None:
        columns.append(review.champion.metrics)
        head.append(f"version {review.champion.version}")
    names = by_importance(facts.metrics, facts.metric)
    rows = [[metric(name), *[number(name, c.get(name)) for c in columns]] for name in names[:ROWS]]
    more = [f"… and {len(names) - ROWS} more in MLflow."] if len(names) > ROWS else []
    gate = next(gate for gate in review.gates if gate.name == "quality")
    return "\n\n".join([table(head, rows), *more, cell(gate.says)])


def _budget(review: Review) -> str:
    facts = review.version
    if not facts.private:
        return f"**{NO_DP}**"
    tags = {name: facts.tags.get(f"dp.{name}", "?") for name in ("unit", "adjacency", "trust_model")}
    gate = next(gate for gate in review.gates if gate.name == "budget")
    summary = cell(f"{gate.says}; by {tags['unit']}, {tags['adjacency']}; {tags['trust_model']}")
    names = ("site", "epsilon", "budget", "left_pct", "steps", "verdict")
    rows = [[cell(plain(row.get(name))) for name in names] for row in facts.budget[:ROWS]]
    return f"{summary}\n\n{table(['site', 'ε spent', 'budget', 'left %', 'steps', 'verdict'], rows)}"


def _sites(review: Review) -> str:
    audited = review.version.site_rows
    if audited is None:
        return "The results of dp-audit are not on record."
    counted = set(review.version.sites)
    rows = [
        [
            cell(str(row.get("site"))),
            "yes" if row.get("site") in counted else "no",
            cell(plain(row.get("verdict"))),
            cell(plain(row.get("not_observable") or None)),
        ]
        for row in audited[:ROWS]
    ]
    more = [f"… and {len(audited) - ROWS} more in `sites.json`."] if len(audited) > ROWS else []
    return "\n\n".join([table(["site", "counts", "dp-audit", "not observable"], rows), *more])


def _links(review: Review, links: Links) -> str:
    facts = review.version
    flow_run = facts.tags.get("prefect.flow_run", _NO_FLOW)
    pages = {f"version {facts.version} in MLflow": links.version(facts.name, facts.version)}
    if review.champion is not None:
        other = review.champion.version
        pages[f"version {other} in MLflow"] = links.version(facts.name, other)
    if flow_run != _NO_FLOW:
        pages["its training in Prefect"] = links.flow_run(flow_run)
    lines = [f"- [{text}]({page})" for text, page in pages.items() if page]
    return "\n".join([*lines, f"- model SHA-256 `{facts.model_sha256}`"])
