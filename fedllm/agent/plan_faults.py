"""Detect dishonest plans: sizes, names and keys that do not fit each other or this site's base model.

A signature proves who wrote a plan, not that the plan is honest. These checks run before anything is
downloaded, opened or trained.
"""

import math
from collections.abc import Container

from fedllm.agent.held_base import HeldBase
from fedllm.errors import IdentityError, ModelError
from fedllm.models.codec import CODECS
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import FP32, Plan
from fedllm.protocol.terms import PrivacyPlan
from fedllm.schedule.schedules import SCHEDULES
from fedllm.secure.sealing import seal

_MOST_STEPS = 1_000_000  # of a training: beyond it the accountant may take minutes and gigabytes
_HEADER = 1024  # bytes; a safetensors header of one tensor is smaller
_STANZAS = 1 << 20  # bytes: what age adds for ten thousand recipients
_LEAST_RATE = 1e-9  # of sampling: the accountant is not run below it
_LEAST_NOISE, _MOST_NOISE = 0.01, 1e6
_LEAST_SHARE = 0.001  # of clip: the noise that a site adds by itself
_LEAST_CLIP, _MOST_CLIP = 1e-6, 1e6  # beyond them fp32 fails, and no gradient is that size
_TAGS = 4096  # age adds 16 bytes to each 64 KiB: one in so many


def fault_of(plan: Plan, layout: Layout, base: HeldBase, roster: Container[str]) -> str | None:
    """Return why a plan cannot be honest; None if no check fails.

    Args:
        plan: a plan whose signature was checked and which names its round.
        layout: the federation's keys in the store.
        base: the site's base model; sizes of a plan for another base are not checked.
        roster: names of the members; a site outside it may be invented.
    """
    return (
        _in_the_round(plan)
        or _in_the_cohort(plan, roster)
        or _in_the_privacy(plan)
        or _in_the_codec(plan)
        or _in_the_keys(plan, layout)
        or _in_the_sizes(plan, base)
    )


def _in_the_round(plan: Plan) -> str | None:
    if not 1 <= plan.round <= plan.rounds:
        return f"round {plan.round} is not among rounds 1 to {plan.rounds}"
    if plan.schedule not in SCHEDULES:
        return f"the schedule {plan.schedule} is not known here"
    return None


def _in_the_cohort(plan: Plan, roster: Container[str]) -> str | None:
    sites = set(plan.sites)
    if len(sites) < len(plan.sites):
        return "the plan names a site twice"
    if foreign := [name for name in plan.sites if name not in roster]:
        return f"the plan includes {foreign[0]}, which is not in the roster"
    if set(plan.weights) != sites:
        odd = min(set(plan.weights) ^ sites)
        return f"weights and sites of the plan do not name the same sites: {odd}"
    weights = set(plan.weights.values())
    if 0 in weights:
        return "the plan gives a site the weight 0"
    if plan.weighting != "examples" and len(weights) > 1:
        return f"the plan's weights differ, though its weighting is {plan.weighting}"
    return None


def _in_the_privacy(plan: Plan) -> str | None:
    asked = plan.privacy
    if asked is None:
        return None
    if plan.weighting != "equal":
        return f"the plan weights by {plan.weighting}: with privacy, weights must be equal"
    if plan.round > asked.rounds:
        return f"the privacy plan's {asked.rounds} rounds are over"
    if asked.unit != "site" and plan.local.steps > asked.steps:
        return f"{plan.local.steps} steps are above the privacy plan's {asked.steps}"
    if (asked.unit == "person") != (asked.unit_field is not None):
        return "the privacy plan must name a field for the unit person, and for no other unit"
    return _in_the_mechanism(asked)


def _in_the_mechanism(asked: PrivacyPlan) -> str | None:
    if asked.unit == "site" and (asked.sampling_rate != 1 or asked.sites or asked.steps != 1):
        return "with privacy by site, every site must take each round as one step at sampling rate 1"
    if asked.rounds * asked.steps > _MOST_STEPS:
        return f"{asked.rounds * asked.steps} steps of a privacy plan are above {_MOST_STEPS}"
    if not _LEAST_CLIP <= asked.clip <= _MOST_CLIP:
        return f"a clip of {asked.clip:g} is out of range"
    for terms in (asked, *asked.sites.values()):
        if asked.unit == "site" and terms.noise_multiplier < _LEAST_SHARE * math.sqrt(asked.min_honest):
            return f"sigma {terms.noise_multiplier:g} among {asked.min_honest} sites is out of range"
        if terms.sampling_rate < _LEAST_RATE or not _LEAST_NOISE <= terms.noise_multiplier <= _MOST_NOISE:
            return f"q {terms.sampling_rate:g} and sigma {terms.noise_multiplier:g} are out of range"
    return None


def _in_the_codec(plan: Plan) -> str | None:
    if plan.privacy is not None and plan.privacy.unit == "site" and plan.codec != FP32:
        return f"with privacy by site, updates must be sent as {FP32}, not as {plan.codec}"
    return None


def _in_the_keys(plan: Plan, layout: Layout) -> str | None:
    if plan.model.key != layout.model(plan.run or "", plan.model.sealed_sha256):
        return "the model's key is not the one of this run and hash"
    try:
        seal(b"", [plan.recipient])  # checked now: after the training it would be too late
    except IdentityError:
        return "the plan's recipient is not an age key"
    return None


def _in_the_sizes(plan: Plan, base: HeldBase) -> str | None:
    if plan.base_sha256 != base.sha256:
        return None  # declined for that reason
    try:
        size = base.adapter_size(plan.adapter)
    except ModelError as error:
        return str(error)
    model = plan.model
    if size is not None and not 4 * size < model.bytes <= 4 * size + _HEADER:
        return f"the model has {model.bytes} bytes, but the adapter has {size} numbers of 4 bytes"
    if not model.bytes < model.sealed_bytes <= model.bytes + model.bytes // _TAGS + _STANZAS:
        return f"a model of {model.bytes} bytes cannot have {model.sealed_bytes} bytes when sealed"
    codec = CODECS.get(plan.codec)  # an unknown codec is declined by the policy
    room = model.bytes // 4  # numbers: no fp32 file of that size holds more
    if codec is not None and plan.most_bytes < codec.most_bytes(room):
        return f"an update of this adapter needs more than the plan's {plan.most_bytes} bytes"
    return None
