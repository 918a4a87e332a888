"""Step 4, aggregate: stream the counted updates into the next global adapter."""

from functools import partial
from typing import TYPE_CHECKING

from fedllm.aggregation import apply_strategy, combined, decode_state, encode_state
from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.payloads import read_model, seal_model
from fedllm.coordinator.round_view import TrainingRound
from fedllm.coordinator.training import Training
from fedllm.exchange.mailbox import seal_to_file
from fedllm.journal.outcomes import Aggregated, Audited
from fedllm.models.codec import decode_flat, encode_flat
from fedllm.protocol.messages import Sealed

if TYPE_CHECKING:
    import torch


def aggregate(training: Training, number: int) -> Aggregated:
    """Compute the next adapter from `closed.json` alone; every coordinator gets the same bits at any time."""
    audited = training.journal.require(training.run, number, "dp-audit", Audited)
    plan = read_plan(training, number)
    size = training.learner().shared.layout.size
    before = decode_flat(read_model(training, plan.model), size)  # (n,)

    # With a site as the unit, an absent site must not raise the weight of the others.
    fixed = len(plan.sites) if plan.privacy is not None and plan.privacy.unit == "site" else None
    settings = training.config.aggregation
    view, combine = (
        TrainingRound(training, plan, size),
        partial(combined, settings.combine, denominator=fixed),
    )
    update = training.mode.coordinator.total(view, audited.counted, combine)
    former = training.schedule.start(training.journal, training.run, number)
    state = _optimizer(training, former, size)
    after, state = apply_strategy(settings, before, update, state)
    members = tuple(site.recipient for site in training.roster.sites)
    return Aggregated(
        model=seal_model(training, encode_flat(after), members),
        sealed_for=members,
        optimizer=_keep_optimizer(training, number, state),
        drift=float((after - before).double().norm() / after.double().norm().clamp_min(1e-12)),
    )


def _optimizer(training: Training, earlier: Aggregated | None, size: int) -> "dict[str, torch.Tensor]":
    """Return the server optimiser's state after the newest aggregated round; empty if there is none."""
    if earlier is None or earlier.optimizer is None:
        return {}
    return decode_state(training.mailbox.fetch_payload(earlier.optimizer), size)


def _keep_optimizer(training: Training, number: int, state: "dict[str, torch.Tensor]") -> Sealed | None:
    if not state:
        return None
    key = training.layout.optimizer(training.run, number)
    path = training.folder / f"optimizer-{number}.sealed"
    recipients = [training.mailbox.me.public.recipient]
    sealed = seal_to_file(encode_state(state), recipients, key, path)
    training.mailbox.send_payload(path, sealed)
    return sealed
