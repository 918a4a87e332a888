"""The gates before a version may become champion.

They read MLflow and the coordinator's fingerprint alone: others who know that can recompute them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedllm.auditing.ledgers import LEDGER_CHECKS
from fedllm.protocol.terms import NO_DP, rounded_up
from fedllm.review.gate import Gate
from fedllm.review.ledger_gate import ledger
from fedllm.review.quality import quality
from fedllm.review.version_facts import VersionFacts
from fedllm.tracking.release import NOT_CONFIGURED

ACCEPTED = "accepted"  # dp-audit's verdict on a site whose update counts
VOID = "it was trained before 0.2, and no claim of its privacy holds: train it again (docs/privacy.md)"
_LONGEST = 400  # characters of a sentence: a card and a tag hold five of them


@dataclass(frozen=True)
class Rules:
    """What the federation asks of a champion."""

    allowed_loss: float = 0.0  # on the public set, by the metric that counts, in its own unit
    asks_privacy: bool = False  # whether its configuration asks for DP now
    pin: str | None = None  # fingerprint of the coordinator whose signature counts; None: not known here


def gates(version: VersionFacts, champion: VersionFacts | None, rules: Rules) -> tuple[Gate, ...]:
    """All gates, in the order in which they are shown."""
    found = (
        version.files,
        quality(version, champion, rules.allowed_loss),
        budget(version, rules),
        audit(version),
        ledger(version),
    )
    return tuple(Gate(gate.name, gate.verdict, _short(gate.says)) for gate in found)


def first_failed(found: Iterable[Gate]) -> Gate | None:
    """The gate that refuses a promotion, if there is one."""
    return next((gate for gate in found if gate.verdict == "fail"), None)


def budget(version: VersionFacts, rules: Rules) -> Gate:
    """Whether the training kept to its privacy budget, and had one where one is asked for."""
    name = "budget"
    if not version.private:
        if fault := _fault_of_no_dp(version, rules):
            return Gate(name, "fail", f"{NO_DP}, {fault}")
        return Gate(name, "not observable", f"{NO_DP}: there is no budget to keep to")
    if version.void:
        return Gate(name, "fail", VOID)
    spent, allowed = (version.tags.get(f"dp.{tag}", NOT_CONFIGURED) for tag in ("epsilon", "epsilon_budget"))
    epsilon, most = _number(spent), _number(allowed)
    told = f"epsilon {spent} of {allowed} at delta {version.tags.get('dp.delta', '?')}"
    if epsilon is None or most is None:
        return Gate(name, "fail", f"{told}: what was spent cannot be seen")
    if epsilon > float(
        rounded_up(most)
    ):  # as the tag is rounded; the ledger gate holds the exact one against it
        return Gate(name, "fail", f"{told}: more than the training may spend")
    return Gate(name, "pass", f"{told}, {version.tags.get('dp.remaining_pct', '?')} % are left")


def _fault_of_no_dp(version: VersionFacts, rules: Rules) -> str:
    """Why a version without DP may not be used; empty where nobody asked for any."""
    if version.asked is None:
        return "and the configuration of its training is not on record"
    if version.asked != "none":
        return f"though its training asked for privacy.unit {version.asked}"
    return "and the federation asks for privacy now" if rules.asks_privacy else ""


def audit(version: VersionFacts) -> Gate:
    """Whether dp-audit accepted every update that counts; with DP, its ledger too."""
    name = "audit"
    if version.site_rows is None:
        return Gate(name, "fail", "what dp-audit found is not on record: its run has no sites.json")
    rows = {str(row.get("site")): row for row in version.site_rows}
    counted = version.sites
    if not counted:
        return Gate(name, "fail", "which sites count is not on record")
    if unknown := [site for site in counted if site not in rows]:
        return Gate(name, "fail", f"nothing says what dp-audit found about {', '.join(unknown)}")
    for site in counted:
        if rows[site].get("verdict") != ACCEPTED:
            return Gate(name, "fail", f"{site} counts and was not accepted: {rows[site].get('verdict')}")
        unseen = _unseen(rows[site])
        if version.private and (missing := [check for check in LEDGER_CHECKS if check in unseen]):
            return Gate(name, "fail", f"{site} counts and its ledger was not seen: {', '.join(missing)}")
    left = [site for site in rows if site not in counted]
    told = f"accepted: {', '.join(counted)}" + (f"; left out: {', '.join(left)}" if left else "")
    return Gate(name, "pass", told)


def _unseen(row: Mapping[str, object]) -> list[str]:
    return str(row.get("not_observable") or "").split(", ")


def _number(text: str) -> float | None:
    """A number, infinity too; None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
