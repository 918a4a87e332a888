"""Bound an update's norm by clip, steps and noise: from above and, if the noise's law is known, from below.

The lower check is one-sided. It detects an update that is smaller than noise alone would be. An update that
passes is consistent with the plan, which does not prove that noise was added.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedllm.auditing.ledgers import Check
from fedllm.models.codec import codec_named
from fedllm.protocol.terms import PrivacyPlan

if TYPE_CHECKING:
    from fedllm.config import LocalConfig

MOST_UNITS = 10.0  # one step sums at most this many batches of the public denominator's size, all parallel
_RARE = 1e-9  # probability that an honest update fails the noise check
_TAIL = 6.5  # P(chi_n > sqrt(n) + 6.5) < 1e-9 for every n (Laurent and Massart 2000, lemma 1)


@dataclass(frozen=True)
class Trained:
    """The terms of training that an update is checked against."""

    site: str
    local: "LocalConfig"
    steps: int  # taken
    size: int  # shared numbers, n
    model_norm: float  # L2, of the global adapter
    round: int = 1
    rounds: int = 1  # of the federation: schedules span it
    privacy: PrivacyPlan | None = None
    codec: str = "fp32"


def private_norm_bound(trained: Trained, plan: PrivacyPlan) -> float:
    """Return an L2 norm that honest private training exceeds with a probability of at most 1e-9.

    An SGD step moves lr/(1-momentum) times the sum of clipped gradients over the public denominator, and the
    noise of all steps grows with the root of their number. AdamW moves each parameter at most 3.17·lr per
    step for any gradient (see `norm_bound`). With unit `site` the whole update is clipped, and the site's
    share of the noise is added.
    """
    local, steps = trained.local, trained.steps
    spread = math.sqrt(trained.size) + _TAIL
    if plan.unit == "site":
        return (plan.clip + noise_std(trained, plan) * spread) * 1.01
    if local.optimizer == "adamw":
        moved = steps * local.lr * (1 - 0.9) / math.sqrt(1 - 0.999) * math.sqrt(trained.size)
        heavy = 1.0
    else:
        heavy = 1 / (1 - local.momentum)
        noise = plan.at(trained.site).noise_multiplier / local.batch_size * spread * math.sqrt(steps)
        moved = local.lr * heavy * plan.clip * (MOST_UNITS * steps + noise)
    pulled = local.weight_decay + local.prox_mu
    return (moved + steps * local.lr * pulled * heavy * (trained.model_norm + moved)) * 1.01


def noise_std(trained: Trained, plan: PrivacyPlan) -> float:
    """Return the standard deviation per number of the noise added last: a site's share or an SGD step's."""
    from fedllm.training.local import rate

    local = trained.local
    sigma = plan.at(trained.site).noise_multiplier * plan.clip
    if plan.unit == "site":
        return sigma / math.sqrt(plan.min_honest)
    last, whole = (trained.round - 1) * local.steps + trained.steps, trained.rounds * local.steps
    return sigma / local.batch_size * local.lr * rate(local, last, whole)


def noise_check(norm: float, trained: Trained, plan: PrivacyPlan) -> Check:
    """Check whether an update's norm is consistent with the noise that is added last.

    Training may undo all noise of earlier steps: near an optimum plain SGD does. Nothing undoes the last
    step's noise, because it is drawn after everything else. Given the rest, the squared norm over its
    variance is a non-central chi-square, which is never likelier to be small than the central one.

    A codec that rounds moves the norm by at most the residual that it leaves now. The residual that it adds
    was there before the step's noise was drawn, so the law above holds with it.

    Returns:
        `not observable` with AdamW, which rescales gradients by their history, and if the last step's
        learning rate is 0.
    """
    std = noise_std(trained, plan)
    if std == 0 or (plan.unit != "site" and trained.local.optimizer != "sgd"):
        return "not observable"
    from scipy.stats import chi2

    norm += codec_named(trained.codec).most_residual(norm, trained.size)
    return "pass" if norm**2 >= std**2 * float(chi2.ppf(_RARE, trained.size)) else "fail"
