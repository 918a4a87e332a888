"""What clip, steps and noise let an update's norm be: not more, and where the noise's law is known, not less.

The second is one-sided. An update with too little noise in it is found out when what is left is smaller than
noise alone would be; one that passes is consistent with the plan, which is no proof that noise was added.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedllm.auditing.ledgers import Check
from fedllm.models.codec import codec_named
from fedllm.protocol.terms import PrivacyPlan

if TYPE_CHECKING:
    from fedllm.config import LocalConfig

MOST_UNITS = 10.0  # batches of the public denominator's size that one step may sum, all pulling one way
_RARE = 1e-9  # probability that an honest update is taken for one with too little noise
_TAIL = 6.5  # P(chi_n > sqrt(n) + 6.5) < 1e-9 for every n (Laurent and Massart 2000, lemma 1)


@dataclass(frozen=True)
class Trained:
    """What an update is held against: who trained how, and from where."""

    site: str
    local: "LocalConfig"
    steps: int  # taken
    size: int  # numbers that are shared, n
    model_norm: float  # L2, of the global adapter
    round: int = 1
    rounds: int = 1  # of the federation: schedules span it
    privacy: PrivacyPlan | None = None
    codec: str = "fp32"


def private_norm_bound(trained: Trained, plan: PrivacyPlan) -> float:
    """Largest L2 norm that honest private training can reach, but for one time in a billion.

    With SGD a step moves lr/(1-momentum) times the sum of clipped gradients over the public denominator, and
    the noise of all steps adds up as a root. AdamW moves each parameter at most 3.17·lr a step, whatever the
    gradient (see `norm_bound`). A site's own update is clipped as a whole, and its share of noise added.
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
    """Standard deviation of what is added last to each number: a site's share of the noise, an SGD step's."""
    from fedllm.training.local import rate

    local = trained.local
    sigma = plan.at(trained.site).noise_multiplier * plan.clip
    if plan.unit == "site":
        return sigma / math.sqrt(plan.min_honest)
    last, whole = (trained.round - 1) * local.steps + trained.steps, trained.rounds * local.steps
    return sigma / local.batch_size * local.lr * rate(local, last, whole)


def noise_check(norm: float, trained: Trained, plan: PrivacyPlan) -> Check:
    """Whether an update's norm is consistent with the noise that is added last.

    Training may undo the noise of earlier steps, all of it: near an optimum plain SGD does. That of the last
    step nothing can undo, for it is drawn when all else is there: given the rest, the squared norm over its
    variance is a non-central chi-square, which is never likelier to be small than the central one.

    A codec that rounds moves the norm by at most the residual that it leaves now. The residual that it adds
    was there before the step's noise was drawn, so the law above holds with it.

    Returns:
        `not observable` with AdamW, which divides by what it saw, and where the last step moves nothing.
    """
    std = noise_std(trained, plan)
    if std == 0 or (plan.unit != "site" and trained.local.optimizer != "sgd"):
        return "not observable"
    from scipy.stats import chi2

    norm += codec_named(trained.codec).most_residual(norm, trained.size)
    return "pass" if norm**2 >= std**2 * float(chi2.ppf(_RARE, trained.size)) else "fail"
