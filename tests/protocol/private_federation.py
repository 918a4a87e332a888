"""What makes a recorded federation a private one."""

from fedllm.agent.accounts import open_accounts
from fedllm.agent.join import Membership
from fedllm.privacy.accounting import Event

BY_RECORD = {
    "unit": "record",
    "epsilon": 20,
    "clip": 0.5,
    "sampling_rate": 0.25,
    "noise_multiplier": 1.5,
    "sites": {"west": {"sampling_rate": 0.125, "noise_multiplier": 2}},
}
BY_SITE = {"unit": "site", "epsilon": 40, "clip": 0.5, "noise_multiplier": 0.75, "min_honest": 2}
EARLIER = Event(0.01, 2.0, 7)


def elsewhere_before(member: Membership) -> None:
    """The site `north` has trained by record for another federation."""
    if member.site.name != "north":
        return
    accounts = open_accounts(member.site, member.home, member.identity)
    where = {"federation": "others", "run": "run-x"}
    accounts.ledger.reserve(
        accounts.dataset,
        "record",
        plan_sha256="ab" * 32,
        event=EARLIER,
        delta=1e-6,
        limit=accounts.limits,
        **where,
    )
    accounts.ledger.charge(accounts.dataset, round=1, first=0, steps=5, **where)
    accounts.ledger.close()
