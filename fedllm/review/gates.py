"""The gates that a version must pass to become champion.

They read only MLflow and the coordinator's fingerprint, so anybody who knows it can recompute them.
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
VOID = "it was trained before 0.2, so its privacy claims are not valid: train it again (docs/privacy.md)"
_LONGEST = 400  # characters per sentence: a card and a tag hold five of them


@dataclass(frozen=True)
class Rules:
    """The federation's requirements for a champion."""

    allowed_loss: float = 0.0  # on the public set, by the metric that counts, in its own unit
    asks_privacy: bool = False  # whether its present configuration requires DP
    pin: str | None = None  # fingerprint of the coordinator whose signature counts; None: unknown here


def gates(version: VersionFacts, champion: VersionFacts | None, rules: Rules) -> tuple[Gate, ...]:
    """Return the results of all gates, in display order."""
    results = (
        version.files,
        quality(version, champion, rules.allowed_loss),
        budget(version, rules),
        audit(version),
        ledger(version),
    )
    return tuple(Gate(gate.name, gate.verdict, _short(gate.says)) for gate in results)


def first_failed(results: Iterable[Gate]) -> Gate | None:
    """Return the first failed gate; None if none failed."""
    return next((gate for gate in results if gate.verdict == "fail"), None)


def budget(version: VersionFacts, rules: Rules) -> Gate:
    """Check that the training kept to its privacy budget, and had one if one is required."""
    name = "budget"
    if not version.private:
        if fault := _fault_of_no_dp(version, rules):
            return Gate(name, "fail", f"{NO_DP}, {fault}")
        return Gate(name, "not observable", f"{NO_DP}: no budget applies")
    if version.void:
        return Gate(name, "fail", VOID)
    spent, allowed = (version.tags.get(f"dp.{tag}", NOT_CONFIGURED) for tag in ("epsilon", "epsilon_budget"))
    epsilon, most = _number(spent), _number(allowed)
    usage = f"epsilon {spent} of {allowed} at delta {version.tags.get('dp.delta', '?')}"
    if epsilon is None or most is None:
        return Gate(name, "fail", f"{usage}: the spent epsilon is not on record")
    if epsilon > float(rounded_up(most)):  # the tag is rounded; the ledger gate checks the exact value
        return Gate(name, "fail", f"{usage}: more than the training may spend")
    return Gate(name, "pass", f"{usage}, {version.tags.get('dp.remaining_pct', '?')} % are left")


def _fault_of_no_dp(version: VersionFacts, rules: Rules) -> str:
    """Return why a version without DP is refused; empty if DP was not required."""
    if version.privacy_unit is None:
        return "and the configuration of its training is not on record"
    if version.privacy_unit != "none":
        return f"though its training asked for privacy.unit {version.privacy_unit}"
    return "but the federation requires privacy now" if rules.asks_privacy else ""


def audit(version: VersionFacts) -> Gate:
    """Check that dp-audit accepted every counted update and, with DP, its ledger."""
    name = "audit"
    if version.site_rows is None:
        return Gate(name, "fail", "dp-audit's results are not on record: its run has no sites.json")
    rows = {str(row.get("site")): row for row in version.site_rows}
    counted = version.sites
    if not counted:
        return Gate(name, "fail", "which sites count is not on record")
    if unknown := [site for site in counted if site not in rows]:
        return Gate(name, "fail", f"dp-audit's verdict on {', '.join(unknown)} is not on record")
    for site in counted:
        if rows[site].get("verdict") != ACCEPTED:
            return Gate(name, "fail", f"{site} counts but was not accepted: {rows[site].get('verdict')}")
        unseen = _unseen(rows[site])
        if version.private and (missing := [check for check in LEDGER_CHECKS if check in unseen]):
            return Gate(name, "fail", f"{site} counts but its ledger was not seen: {', '.join(missing)}")
    left = [site for site in rows if site not in counted]
    summary = f"accepted: {', '.join(counted)}" + (f"; left out: {', '.join(left)}" if left else "")
    return Gate(name, "pass", summary)


def _unseen(row: Mapping[str, object]) -> list[str]:
    return str(row.get("not_observable") or "").split(", ")


def _number(text: str) -> float | None:
    """Return the text as a number, which may be infinite; None if it is not a number."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
