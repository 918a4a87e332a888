"""How much a site may keep in the store: a policy of S3 bounds where it writes, not how much."""

from fedllm.coordinator.training import Training
from fedllm.errors import QuotaError
from fedllm.protocol.messages import Plan

MOST_OBJECTS = 10_000  # of one site, over all rounds and runs; `fedllm gc` removes what is over


def check_quota(training: Training, plan: Plan, site: str) -> None:
    """Hold what a site keeps for this round, and how many objects in all, against its quota.

    Raises:
        QuotaError: with the count or the bytes that are too many.
    """
    store, layout = training.mailbox.store, training.layout
    run, number = training.run, plan.round
    prefix = layout.round_prefix(site, run, number)
    objects = training.mode.objects
    expected = {f"{prefix}{one.name}" for one in objects}
    found = list(store.list(prefix, most=len(expected) + 1))
    if strange := [there.key for there in found if there.key not in expected]:
        name = strange[0].rpartition("/")[2][:60]
        belong = ", ".join(one.name for one in objects)
        raise QuotaError(f"it keeps {name!r} under this round: {belong} alone belong there")
    size = sum(there.size for there in found)
    most = sum(one.most_bytes(plan) for one in objects)
    if size > most:
        raise QuotaError(f"it keeps {size} bytes for this round, its quota is {most}")
    if sum(1 for _ in store.list(layout.site_prefix(site), most=MOST_OBJECTS + 1)) > MOST_OBJECTS:
        raise QuotaError(f"it keeps more than {MOST_OBJECTS} objects in all: `fedllm gc` removes old ones")
