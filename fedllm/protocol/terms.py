"""The privacy terms of a training, which coordinator and sites agree on before the first step."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedllm.config.frozen import Name

Unit = Literal["record", "person", "site"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]

ADJACENCY: Literal["add-remove"] = "add-remove"
NO_DP = "no DP configured"
TRUST: Mapping[str, str] = {
    "record": "local: each site adds its own noise and trusts nobody outside",
    "person": "local: each site adds its own noise and trusts nobody outside",
    "site": "the coordinator sees single updates with a share of the noise; all others the noised sums alone",
}


class SiteTerms(BaseModel):
    """The Poisson-sampled Gaussian mechanism that one site runs in every step."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sampling_rate: Rate  # q: share of the units in a step
    noise_multiplier: Positive  # sigma, in units of clip


class PrivacyPlan(SiteTerms):
    """The privacy terms in the plans of a run, identical in all of them.

    A site reserves the whole training before its first step: `rounds` times `steps` steps at its q and sigma.
    With the unit `site` a step is a round, and each site adds its share of the noise.
    """

    unit: Unit
    adjacency: Literal["add-remove"] = ADJACENCY
    unit_field: Annotated[str, Field(max_length=200)] | None = None  # the field that names a person
    max_per_person: Annotated[int, Field(ge=1, le=1000)] = 1  # the most records of a person in one step
    epsilon: Positive  # the budget of each site for this training
    delta: Annotated[float, Field(gt=0, lt=1)]
    clip: Positive  # L2 norm of a unit's gradient, or of an update for `site`
    rounds: Steps  # the most, including failed ones
    steps: Steps  # the most per round
    min_honest: Annotated[int, Field(ge=1, le=10_000)] = 1  # `site`: how many shares add up to sigma
    # Terms of single sites, where they differ.
    sites: Mapping[Name, SiteTerms] = Field(default_factory=dict, max_length=10_000, fail_fast=True)

    def at(self, site: str) -> SiteTerms:
        """Return a site's q and sigma."""
        return self.sites.get(site, self)

    def unpaid(self, wanted: int, failed: int) -> int:
        """Return how many wanted rounds the plan does not cover; each failed round adds one."""
        return max(0, wanted + failed - self.rounds)

    @property
    def sha256(self) -> str:
        """Return the hash of the fields as compact JSON with sorted keys."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PrivateTerms:
    """The privacy terms that a site's training process needs."""

    unit: Unit
    sampling_rate: float
    noise_multiplier: float
    clip: float
    unit_field: str | None = None
    max_per_person: int = 1
    min_honest: int = 1


def private_terms(plan: PrivacyPlan, site: str) -> PrivateTerms:
    """Return a plan's terms for one site."""
    terms = plan.at(site)
    return PrivateTerms(
        unit=plan.unit,
        sampling_rate=terms.sampling_rate,
        noise_multiplier=terms.noise_multiplier,
        clip=plan.clip,
        unit_field=plan.unit_field,
        max_per_person=plan.max_per_person,
        min_honest=plan.min_honest,
    )


def rounded_up(epsilon: float) -> str:
    """Format an epsilon with four digits, rounded up, since it is an upper bound."""
    return f"{float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(epsilon)):g}"


def told_in_words(plan: PrivacyPlan, spent: float | None) -> str:
    """Describe the budget spent and its limit in one line; `spent` is None if no ledger could be checked."""
    epsilon = "not observable" if spent is None else rounded_up(spent)
    return f"epsilon {epsilon} of {plan.epsilon:g} at delta {plan.delta!r}, by {plan.unit}, {plan.adjacency}"
