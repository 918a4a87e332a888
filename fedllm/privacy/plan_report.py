"""Write the planned privacy as JSON and as a plot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.data.records import write_bytes
from fedllm.protocol.terms import NO_DP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedllm.privacy.planning import PrivacyPlanning, SitePlan

SCHEMA = "fedllm.privacy-plan/1"


def as_json(planned: "PrivacyPlanning") -> dict[str, Any]:
    """Return the plan as one JSON object: `sites` holds sites that differ; numbers are null without DP."""
    common, on = planned.common, planned.common is not None
    return {
        "schema": SCHEMA,
        "epsilon": planned.epsilon,
        "budget": planned.budget,
        "delta": planned.delta,
        "noise_multiplier": common.noise_multiplier if common else None,
        "sampling_rate": common.sampling_rate if common else None,
        "steps": common.steps if common else None,
        "rounds": planned.rounds,
        "unit": planned.unit,
        "adjacency": planned.adjacency if on else None,
        "accountant": planned.accountant if on else None,
        "trust_model": planned.trust,
        "sites": {site.site: _site(site) for site in planned.sites if _differs(planned, site)},
        "by_round": _by_round(planned.by_round),
        "snr": None
        if planned.snr is None
        else {
            "size": planned.snr.size,
            "per_step": planned.snr.per_step,
            "training": planned.snr.training,
            "verdict": planned.snr.verdict,
        },
    }


def write_report(planned: "PrivacyPlanning", out: Path) -> dict[str, Any]:
    """Write `privacy_plan.json` and `privacy_plan.png`, and return the JSON object."""
    report = as_json(planned)
    write_bytes(out / "privacy_plan.json", (json.dumps(report, indent=1, sort_keys=True) + "\n").encode())
    _draw(planned, out / "privacy_plan.png")
    return report


def _differs(planned: "PrivacyPlanning", site: "SitePlan") -> bool:
    common = planned.common
    return common is None or (site.sampling_rate, site.noise_multiplier) != (
        common.sampling_rate,
        common.noise_multiplier,
    )


def _site(site: "SitePlan") -> dict[str, Any]:
    return {
        "sampling_rate": site.sampling_rate,
        "noise_multiplier": site.noise_multiplier,
        "steps": site.steps,
        "epsilon": site.epsilon,
        "by_round": _by_round(site.by_round),
    }


def _by_round(pairs: tuple[tuple[int, float], ...]) -> list[dict[str, float]]:
    return [{"round": number, "epsilon": spent} for number, spent in pairs]


def _draw(planned: "PrivacyPlanning", path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if planned.sites:
        _draw_sites(axes, planned)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, NO_DP, ha="center", va="center", fontsize=18)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Leave matplotlib's version out of the file: the same plan gives the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_sites(axes: "Axes", planned: "PrivacyPlanning") -> None:
    """Plot one curve per group of sites with the same sampling rate and noise; the budget is dashed."""
    from matplotlib.ticker import MaxNLocator

    alike: dict[tuple[float, float], list[SitePlan]] = {}
    for site in planned.sites:
        alike.setdefault((site.sampling_rate, site.noise_multiplier), []).append(site)
    for (rate, noise), group in alike.items():
        name = group[0].site if len(group) == 1 else f"{len(group)} sites"
        rounds, spent = zip(*group[0].by_round, strict=True)
        axes.plot(rounds, spent, "o-", markersize=4, label=f"{name}: q {rate:g}, sigma {noise:g}")
    axes.axhline(planned.budget or 0.0, color="0.3", linestyle="--", label=f"budget ε {planned.budget:g}")
    axes.set_xlabel("round")
    axes.set_ylabel(f"ε at δ {planned.delta!r}, composed")
    axes.set_title(f"what the training spends, by {planned.unit}, {planned.adjacency}")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, color="0.9")
    axes.legend(loc="lower right", frameon=False)
