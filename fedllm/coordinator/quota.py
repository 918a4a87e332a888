"""Bound how much a site keeps in the store: an S3 policy bounds only where it writes."""

from fedllm.coordinator.training import Training
from fedllm.errors import QuotaError
from fedllm.protocol.messages import Plan

MOST_OBJECTS = 10_000  # per site, over all rounds and runs; `fedllm gc` removes those of ended runs


def check_quota(training: Training, plan: Plan, site: str) -> None:
    """Check a site's objects of this round, and their number over all rounds, against its quota.

    Raises:
        QuotaError: the site exceeds its quota; names the count or the bytes.
    """
    store, layout = training.mailbox.store, training.layout
    run, number = training.run, plan.round
    prefix = layout.round_prefix(site, run, number)
    objects = training.mode.objects
    expected = {f"{prefix}{one.name}" for one in objects}
    stored = list(store.list(prefix, most=len(expected) + 1))
    if strange := [entry.key for entry in stored if entry.key not in expected]:
        name = strange[0].rpartition("/")[2][:60]
        allowed = ", ".join(one.name for one in objects)
        raise QuotaError(f"it stored {name!r} under this round: only {allowed} belong there")
    size = sum(entry.size for entry in stored)
    most = sum(one.most_bytes(plan) for one in objects)
    if size > most:
        raise QuotaError(f"it stored {size} bytes for this round, its quota is {most}")
    if sum(1 for _ in store.list(layout.site_prefix(site), most=MOST_OBJECTS + 1)) > MOST_OBJECTS:
        raise QuotaError(f"it stored more than {MOST_OBJECTS} objects in all: `fedllm gc` removes old ones")
