"""The verb `fedllm plan-privacy`: compute the privacy cost of a training before it runs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import AsJson, Overrides
from fedllm.cli.output import emit

if TYPE_CHECKING:
    from fedllm.config import FederationConfig
    from fedllm.privacy.planning import PrivacyPlanning


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("plan-privacy")(plan_privacy)


def plan_privacy(
    file: Annotated[Path, typer.Argument(help="The federation file.")],
    *,
    sets: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="The folder of the report.")] = Path("reports"),
    as_json: AsJson = False,
) -> None:
    """Plan a training's privacy: noise, epsilon by round, signal to noise; privacy_plan.json and .png."""
    from fedllm.config import load_federation
    from fedllm.privacy.plan_report import write_report
    from fedllm.privacy.planning import plan

    config = load_federation(file, sets or ())
    planned = plan(config, _sites(config), _size(config))
    payload = write_report(planned, out)
    written = f"written: {out / 'privacy_plan.json'}, {out / 'privacy_plan.png'}"
    emit(as_json, payload, "\n".join([*_text(planned), written]))


def _sites(config: "FederationConfig") -> tuple[str, ...]:
    """Return the simulated sites, else those in `privacy.sites`, filled up to rounds.min_sites."""
    if config.simulation is not None:
        return config.simulation.names
    named = sorted(config.privacy.sites)
    return (*named, *(f"site-{i + 1}" for i in range(len(named), config.rounds.min_sites)))


def _size(config: "FederationConfig") -> int | None:
    """Return how many numbers are shared; None without DP, or if the base model is not on this machine."""
    from fedllm.errors import ModelError

    if not config.privacy.on:
        return None
    try:
        return _shared_size(config)
    except ModelError:
        return None


def _shared_size(config: "FederationConfig") -> int:
    from fedllm.agent.held_base import held_base

    model = config.model
    if (size := held_base(model.base).adapter_size(model.adapter)) is not None:
        return size
    from fedllm.models.base import resolve_base
    from fedllm.tasks.load import load_learner

    learner = load_learner(resolve_base(model.base), model.adapter, config.seed, config.task)
    return learner.shared.layout.size


def _text(planned: "PrivacyPlanning") -> list[str]:
    from fedllm.protocol.terms import rounded_up

    if planned.common is None:
        return ["no DP configured: the model may remember what it is trained on"]
    spent = rounded_up(math.inf if planned.epsilon is None else planned.epsilon)
    head = (
        f"epsilon {spent} of {planned.budget:g} at delta {planned.delta!r} after {planned.rounds} rounds, by "
        f"{planned.unit}, {planned.adjacency} ({planned.accountant})"
    )
    columns = f"{'site':16} {'q':>8} {'sigma':>8} {'steps':>8} {'epsilon':>8}"
    lines = [head, f"trust: {planned.trust}", "", columns]
    lines += [
        f"{row.site:16} {row.sampling_rate:8.4g} {row.noise_multiplier:8.4g} {row.steps:8} "
        f"{rounded_up(row.epsilon):>8}"
        for row in planned.sites
    ]
    lines += ["", f"{'round':>8} {'epsilon':>8}"]
    lines += [f"{number:8} {rounded_up(spent):>8}" for number, spent in planned.by_round]
    lines.append("")
    if planned.snr is None:
        return [*lines, "signal to noise: not known, since the base model is not on this machine", ""]
    snr = planned.snr
    step = "a round" if planned.unit == "site" else "a step"
    ratios = f"at most {snr.per_step:.2g} in {step}, {snr.training:.2g} over the training"
    return [*lines, f"signal to noise: {ratios}, with {snr.size} shared numbers", snr.verdict, ""]
