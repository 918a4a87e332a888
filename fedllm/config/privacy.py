"""Differential privacy: what is protected, how far, and with which noise."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedllm.config.frozen import Frozen, Name

Rate = Annotated[float, Field(gt=0, le=1)]
Noise = Literal["auto"] | Annotated[float, Field(gt=0)]


class SitePrivacy(Frozen):
    """Where one site differs: a site with many records may sample a smaller share of them."""

    sampling_rate: Rate | None = None
    noise_multiplier: Noise | None = None


class PrivacyConfig(Frozen):
    """Differential privacy under adding or removing one unit; `none` is said wherever a result is shown.

    `record` and `person`: every site runs DP-SGD on its own data (Abadi et al. 2016), and nobody beside it is
    trusted. `site`: whole sites are hidden from all but the coordinator. `local.batch_size` is the public
    number by which the noised sum of a step is divided; the true size of a batch stays at the site.
    """

    unit: Literal["none", "record", "person", "site"] = "none"
    unit_field: str | None = None  # the field that names the person
    max_per_person: int = Field(default=1, ge=1, le=1000)  # records a person gives to one step, at most
    epsilon: float | None = Field(default=None, gt=0)  # the most that the whole training may spend, a site
    delta: float = Field(default=1e-5, gt=0, lt=0.1)
    clip: float | None = Field(default=None, ge=1e-6, le=1e6)  # L2 norm of a unit's gradient, a site's update
    sampling_rate: Rate | None = None  # share of the units in a step, each drawn by itself (Poisson)
    noise_multiplier: Noise = "auto"  # sigma, in units of clip; `auto`: the least that keeps to epsilon
    sites: Mapping[Name, SitePrivacy] = Field(default_factory=dict)
    min_honest: int | None = Field(default=None, ge=1)  # `site`: survivors that add noise; rounds.min_sites

    @property
    def on(self) -> bool:
        """Whether anything is claimed."""
        return self.unit != "none"

    @property
    def local(self) -> bool:
        """Whether sites protect single records or persons themselves."""
        return self.unit in {"record", "person"}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.on:
            return self
        needed = ["epsilon", "clip"] + (["sampling_rate"] if self.local else [])
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(f"privacy.{missing[0]} is needed with privacy.unit {self.unit}")
        if self.unit == "person" and self.unit_field is None:
            raise ValueError("privacy.unit_field is needed with privacy.unit person: it names one")
        if self.unit != "person" and self.unit_field is not None:
            raise ValueError("privacy.unit_field names a person: set privacy.unit to person")
        if self.unit == "site" and (self.sampling_rate not in {None, 1.0} or self.sites):
            raise ValueError("privacy.sampling_rate and privacy.sites have no meaning with privacy.unit site")
        return self

    def rate_at(self, site: str) -> float:
        """The share of a site's units in a step; 1 where whole sites are the unit."""
        mine = self.sites.get(site, SitePrivacy()).sampling_rate
        return mine or self.sampling_rate or 1.0

    def noise_at(self, site: str) -> Noise:
        """The noise multiplier asked for a site."""
        mine = self.sites.get(site, SitePrivacy()).noise_multiplier
        return mine if mine is not None else self.noise_multiplier
