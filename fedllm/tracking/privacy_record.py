"""The privacy budget for reviewers: tags, a table, the ledgers, and a plot of quality against epsilon.

Epsilon is an upper bound: it is shown rounded up, and the remaining budget rounded down.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.privacy.accounting import ACCOUNTANT
from fedllm.protocol.terms import TRUST, rounded_up
from fedllm.tasks.metrics import main_metric
from fedllm.tracking.release import EXACT, NO_DP, NOT_OBSERVABLE, RoundRelease, as_table, safe_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from fedllm.protocol.entry import ChainHead
    from fedllm.protocol.terms import PrivacyPlan

METRIC = "dp/epsilon"
LEDGERS = "ledgers"  # artifact folder, one file of JSON lines per site
TABLE = "privacy/budget.json"
PICTURE = "privacy/epsilon_quality.png"
MOST_NAMED = 20  # points of the picture labelled with their round


def privacy_tags(
    plan: "PrivacyPlan | None", spent: float | None, heads: Mapping[str, Iterable["ChainHead"]]
) -> dict[str, str]:
    """Return a version's privacy tags; without a plan the single tag `dp.epsilon: not configured`.

    Args:
        plan: privacy plan of the run.
        spent: largest epsilon over the sites whose ledgers were checked; None if none could be checked.
        heads: by site, the heads of its ledgers, one per data set.
    """
    if plan is None:
        return dict(NO_DP)
    return {
        "dp.epsilon": NOT_OBSERVABLE if spent is None else rounded_up(spent),
        "dp.delta": repr(plan.delta),
        "dp.unit": plan.unit,
        "dp.adjacency": plan.adjacency,
        "dp.trust_model": TRUST[plan.unit],
        "dp.accountant": ACCOUNTANT,
        "dp.arithmetic": EXACT,
        "dp.epsilon_budget": f"{plan.epsilon:.12g}",
        "dp.remaining_pct": NOT_OBSERVABLE if spent is None else f"{left_pct(spent, plan.epsilon):g}",
        "dp.ledger_sha256": ledgers_sha256(heads),
    }


def budget_row(
    site: str, *, spent: float | None, budget: float, steps: int | None, verdict: str
) -> dict[str, Any]:
    """Return a site's row of the budget table; epsilon and steps are its ledger's for this training."""
    return {
        "site": site,
        "epsilon": None if spent is None else float(rounded_up(spent)) if math.isfinite(spent) else "inf",
        "budget": budget,
        "left_pct": None if spent is None else left_pct(spent, budget),
        "steps": steps,
        "verdict": verdict,
    }


def left_pct(spent: float, budget: float) -> float:
    """Return the remaining budget in % of its epsilon, rounded down to a tenth."""
    return max(0.0, math.floor(1000 * (1 - spent / budget)) / 10) if math.isfinite(spent) else 0.0


def ledgers_sha256(heads: Mapping[str, Iterable["ChainHead"]]) -> str:
    """Return the SHA-256 of the sorted lines `site seq sha256`, one per ledger, each ended by LF."""
    lines = sorted(f"{site} {head.seq} {head.sha256}\n" for site, held in heads.items() for head in held)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def epsilon_of(release: RoundRelease) -> float | None:
    """Return the largest epsilon of the sites after this round; None if it is unknown or infinite."""
    for row in release.epsilon_quality:
        if row["round"] == release.round and row.get("epsilon") is not None:
            return float(row["epsilon"]) if math.isfinite(row["epsilon"]) else None
    return None


def log_budget(client: "MlflowClient", child_id: str, parent_id: str, release: RoundRelease) -> list[str]:
    """Write ledgers, table and picture to the round's run, and to the training's if no later round has.

    Returns:
        Paths of the artifacts that are tables.
    """
    if not (release.budget or release.ledgers or release.epsilon_quality):
        return []
    curve = safe_name(min(release.metrics, default=METRIC))
    later = any(metric.step > release.round for metric in client.get_metric_history(parent_id, curve))
    with tempfile.TemporaryDirectory(prefix="fedllm-budget-") as scratch:
        folder = Path(scratch)
        _write(release, folder)
        for run_id in [child_id] if later else [child_id, parent_id]:
            client.log_artifacts(run_id, str(folder))
    return [TABLE] if release.budget else []


def _write(release: RoundRelease, folder: Path) -> None:
    for part in (LEDGERS, "privacy"):
        (folder / part).mkdir()
    for site, entries in release.ledgers.items():
        file = folder / LEDGERS / f"{safe_name(site).replace('/', '_')}.jsonl"
        file.write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    if release.budget:
        (folder / TABLE).write_text(json.dumps(as_table(release.budget)), encoding="utf-8")
    if release.epsilon_quality:
        draw(release).savefig(folder / PICTURE, dpi=110, metadata={"Software": None})


def draw(release: RoundRelease) -> "Figure":
    """Plot quality on the public set against the largest epsilon of the sites, one point per round."""
    from matplotlib.figure import Figure

    measured = {key: value for row in release.epsilon_quality for key, value in row.items()}
    metric = main_metric(measured, release.metric)
    name = metric.name
    rows = sorted(
        (row for row in release.epsilon_quality if _finite(row.get("epsilon")) and _finite(row.get(name))),
        key=lambda row: row["round"],
    )
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if rows:
        axes.plot([row["epsilon"] for row in rows], [row[name] for row in rows], "o-", label="this training")
        for row in _named(rows):
            number, at = f"{row['round']:g}", (row["epsilon"], row[name])
            axes.annotate(number, at, textcoords="offset points", xytext=(4, 6), fontsize=9)
    else:
        axes.text(0.5, 0.5, "epsilon is not observable", ha="center", transform=axes.transAxes)
    if name in release.baseline:
        axes.axhline(release.baseline[name], color="0.5", linestyle=":", label="zero-shot")
    if budgets := [row["budget"] for row in release.budget if row.get("budget") is not None]:
        axes.axvline(max(budgets), color="0.3", linestyle="--", label=f"budget ε {max(budgets):g}")
    axes.margins(0.1)
    axes.set_xlim(left=0)
    terms = {part: release.privacy.get(f"dp.{part}", "?") for part in ("delta", "unit", "adjacency")}
    axes.set_xlabel(f"ε at δ {terms['delta']}, by {terms['unit']}, {terms['adjacency']}")
    axes.set_ylabel(f"{metric.words} on the public set")
    axes.set_title(f"{release.federation}, {release.run}: quality and privacy cost by round")
    axes.grid(visible=True, color="0.9")
    # "best" searches for the emptiest corner, which slows down with the number of points.
    axes.legend(frameon=False, loc="best" if len(rows) <= MOST_NAMED else "lower right")
    return figure


def _named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points to label with their round, the last included; more labels would overlap."""
    every = math.ceil(len(rows) / MOST_NAMED)
    return rows[::-every][::-1]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
