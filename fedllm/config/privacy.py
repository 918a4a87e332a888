"""The settings of differential privacy: the protected unit, the budget and the noise."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedllm.config.frozen import Frozen, Name

Rate = Annotated[float, Field(gt=0, le=1)]
Noise = Literal["auto"] | Annotated[float, Field(gt=0)]


class SitePrivacy(Frozen):
    """The settings of one site that differ from the others, such as a smaller rate for many records."""

    sampling_rate: Rate | None = None
    noise_multiplier: Noise | None = None


class PrivacyConfig(Frozen):
    """Differential privacy under adding or removing one unit; results state it, also if it is `none`.

    `record` and `person`: every site runs DP-SGD on its own data (Abadi et al. 2016) and trusts nobody else.
    `site`: whole sites are hidden from everyone but the coordinator. `local.batch_size` is the public
    denominator of the noised sum of a step; the true size of a batch stays at the site.
    """

    unit: Literal["none", "record", "person", "site"] = "none"
    unit_field: str | None = None  # the field that names the person
    max_per_person: int = Field(default=1, ge=1, le=1000)  # most records of a person in one step
    epsilon: float | None = Field(default=None, gt=0)  # budget of the whole training, per site
    delta: float = Field(default=1e-5, gt=0, lt=0.1)
    clip: float | None = Field(default=None, ge=1e-6, le=1e6)  # L2 norm of a gradient, or a site's update
    sampling_rate: Rate | None = None  # chance of each unit to be in a step (Poisson)
    noise_multiplier: Noise = "auto"  # sigma, in units of clip; `auto`: the least that keeps the budget
    sites: Mapping[Name, SitePrivacy] = Field(default_factory=dict)
    min_honest: int | None = Field(default=None, ge=1)  # `site`: sites that add noise; rounds.min_sites

    @property
    def on(self) -> bool:
        """Return whether any unit is protected."""
        return self.unit != "none"

    @property
    def local(self) -> bool:
        """Return whether sites protect records or persons themselves."""
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
        """Return the sampling rate of a site; 1 if the unit is the site."""
        rate = self.sites.get(site, SitePrivacy()).sampling_rate
        return rate or self.sampling_rate or 1.0

    def noise_at(self, site: str) -> Noise:
        """Return the configured noise multiplier of a site."""
        noise = self.sites.get(site, SitePrivacy()).noise_multiplier
        return noise if noise is not None else self.noise_multiplier
