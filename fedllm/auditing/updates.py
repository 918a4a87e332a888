"""What can be checked about one site's update without trusting the site.

Every check answers `pass`, `fail` or `not observable`. Without differential privacy the verdict says "no DP
configured" and nothing greener.
"""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from fedllm.auditing.ledgers import LEDGER_CHECKS, Check
from fedllm.auditing.noise import Trained, noise_check, private_norm_bound
from fedllm.errors import RefusedError
from fedllm.models.codec import codec_named
from fedllm.protocol.messages import Verdict
from fedllm.protocol.terms import NO_DP

if TYPE_CHECKING:
    from fedllm.config import LocalConfig

LONGEST_REASON = 300  # characters: closed.json holds a verdict on each of thousands of sites

# In the order they are made: the first that fails is the reason.
CHECKS = ("signature", "hash", "size", "schema", "norm", "noise", *LEDGER_CHECKS)


def norm_bound(local: "LocalConfig", steps: int, size: int, model_norm: float) -> float:
    """Largest L2 norm that honest training without DP can reach.

    SGD moves at most lr·c/(1-momentum) a step with gradients clipped to c. AdamW moves each parameter at
    most lr·(1-β1)/√(1-β2) = 3.17·lr a step (Kingma and Ba 2015, section 2.1, β1=0.9, β2=0.999), so
    3.17·lr·√n in all. Weight decay adds lr·decay times the norm at hand.

    Args:
        local: the plan's local training.
        steps: steps taken.
        size: parameters shared, n.
        model_norm: L2 norm of the global adapter.
    """
    if local.optimizer == "sgd":
        a_step = local.lr * local.max_grad_norm / (1 - local.momentum)
    else:
        a_step = local.lr * (1 - 0.9) / math.sqrt(1 - 0.999) * math.sqrt(size)
    moved = steps * a_step
    heavy = 1 / (1 - local.momentum) if local.optimizer == "sgd" else 1.0
    decay = steps * local.lr * local.weight_decay * heavy * (model_norm + moved)
    return (moved + decay) * 1.01  # room for rounding in fp32


def audit_update(payload: bytes, trained: Trained) -> Verdict:
    """Check the opened bytes of an update whose signature and hashes were right."""
    site, plan = trained.site, trained.privacy
    checks: dict[str, Check] = {"signature": "pass", "hash": "pass", "size": "pass"}
    try:
        update = codec_named(trained.codec).decode(payload, trained.size)
    except RefusedError as error:
        return refuse(site, str(error), checks, "schema")
    checks["schema"] = "pass"
    norm = float(update.double().norm())
    bound = _bound(trained)
    if norm > bound:
        return refuse(site, f"norm {norm:.4g} is above {bound:.4g}, which the plan allows", checks, "norm")
    if norm == 0.0:
        return refuse(site, "the update is all zeros: nothing was trained", checks, "norm")
    checks["norm"] = "pass"
    if plan is not None:
        checks["noise"] = noise_check(norm, trained, plan)
        if checks["noise"] == "fail":
            return refuse(site, f"norm {norm:.4g} holds less noise than the plan asks for", checks, "noise")
    told: dict[str, Check] = {name: checks.get(name, "not observable") for name in CHECKS}
    return Verdict(site=site, accepted=True, checks=told, privacy=NO_DP, norm=norm)


def _bound(trained: Trained) -> float:
    """Largest norm of an update as it is decoded: as trained, plus the residual before, less the one after.

    The residual before may be that of a round with all steps of the plan, so both are bounded by such a one.
    """
    whole = replace(trained, steps=max(trained.steps, trained.local.steps))
    residual = codec_named(trained.codec).most_residual(_trained_bound(whole), trained.size)
    return _trained_bound(trained) + 2 * residual


def _trained_bound(trained: Trained) -> float:
    if trained.privacy is not None:
        return private_norm_bound(trained, trained.privacy)
    return norm_bound(trained.local, trained.steps, trained.size, trained.model_norm)


def refuse(site: str, reason: str, checks: dict[str, Check], failed: str) -> Verdict:
    """A verdict against an update: what passed before, what failed, and what was not looked at."""
    told: dict[str, Check] = {name: checks.get(name, "not observable") for name in CHECKS}
    told[failed] = "fail"
    return Verdict(site=site, accepted=False, reason=reason[:LONGEST_REASON], checks=told, privacy=NO_DP)
