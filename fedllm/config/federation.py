"""The schema of the federation file, which all parties of a training share."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from fedllm.config.frozen import Frozen, Name, Seconds
from fedllm.config.kinds import KINDS
from fedllm.config.privacy import PrivacyConfig
from fedllm.config.task import MANY, TaskConfig, Word

Layer = Annotated[int, Field(ge=0, lt=MANY)]


class AdapterConfig(Frozen):
    """What is trained on top of the frozen base model."""

    method: Literal["ffa-lora", "lora", "full"] = "ffa-lora"  # `full`: every weight of a small model
    average: Literal["naive"] = "naive"  # only for `lora`: averages A and B separately, which is inexact
    rank: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=16, gt=0)
    targets: Annotated[tuple[Word, ...], Field(max_length=100)] = ("q_proj", "v_proj")
    layers: Literal["all"] | Annotated[tuple[Layer, ...], Field(max_length=MANY)] = "all"


class ModelConfig(Frozen):
    """The base model: a hub id[@revision], a folder, a .gguf file, or a name known to fedllm."""

    base: str = "smollm2-135m"
    adapter: AdapterConfig = AdapterConfig()


_WHOLE = " or ".join(name for name, kind in KINDS.items() if kind.whole)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class EvaluationConfig(Frozen):
    """The coordinator's public set: a JSON-lines file, or `auto` for the held-out part of the corpus."""

    public: str = "auto"
    limit: int | None = Field(default=None, ge=1)  # records per group, for a quick look
    metric: Word = "auto"  # the main metric, such as accuracy, loss or macro_f1; auto: the task's own


class RoundsConfig(Frozen):
    """The number of rounds, their sites and their deadlines."""

    max: int = Field(default=3, ge=1, le=10_000)
    patience: int | None = Field(default=2, ge=1)  # rounds without improvement
    target: float | None = None  # stop at this value of the main metric
    drift: float | None = Field(default=None, gt=0)  # stop when ||update|| / ||model|| falls below
    cohort: float = Field(default=1.0, gt=0, le=1)  # share of the live sites
    min_sites: int = Field(default=2, ge=1)
    deadline: Seconds = 900.0  # s per round
    join: Seconds = 60.0  # s that dispatch waits for sites; longer for a site that still prepares
    mode: Literal["sync"] = "sync"


class LocalConfig(Frozen):
    """What a site does in one round."""

    algorithm: Literal["fedavg", "fedprox"] = "fedavg"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # over the whole training, not one round
    warmup: int = Field(default=0, ge=0)  # steps, over the whole training
    steps: int = Field(default=15, ge=1, le=100_000)
    batch_size: int = Field(default=16, ge=1, le=65536)  # with privacy: the public denominator of a step
    prox_mu: float = Field(default=0.0, ge=0)  # FedProx, Li et al. 2020, eq. 2
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)  # sgd
    max_grad_norm: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.algorithm == "fedprox" and self.prox_mu == 0:
            raise ValueError("local.prox_mu must be above 0 for fedprox: 0 is fedavg")
        if self.algorithm == "fedavg" and self.prox_mu > 0:
            raise ValueError("local.prox_mu has no meaning for fedavg: set local.algorithm to fedprox")
        return self


class AggregationConfig(Frozen):
    """How updates are combined and applied to the model (adaptive strategies: Reddi et al. 2021)."""

    strategy: Literal["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"] = "fedavg"
    combine: Literal["mean", "median"] = "mean"  # median: per coordinate; robust to a minority of bad updates
    weighting: Literal["equal", "examples", "work"] = "equal"  # examples: only from sites with `tell_count`
    weight_cap: float = Field(default=1.5, ge=1, le=100)  # of `examples`: in equal shares; never over half
    lr: float = Field(default=1.0, gt=0)  # of the server's optimiser
    momentum: float = Field(default=0.9, ge=0, lt=1)  # fedavgm
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0)  # degree of adaptivity


class StoreConfig(Frozen):
    """Where the parties meet: `auto` (the local MinIO), `s3://bucket` with an endpoint, `file://folder`."""

    url: str = "auto"
    endpoint: str | None = None  # https://host:port for the coordinator
    door: str | None = None  # https://host:port for the sites; needed unless they reach the store itself
    region: str = "us-east-1"

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if url != "auto" and not url.startswith(("s3://", "file://")):
            raise ValueError(f"store.url {url!r}: use auto, s3://bucket or file:///folder")
        if url.startswith("s3://") and not _BUCKET.fullmatch(url.removeprefix("s3://").rstrip("/")):
            raise ValueError(
                f"store.url {url!r}: a bucket's name has 3 to 63 small letters, digits, dots and hyphens"
            )
        return url

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.url.startswith("s3://") and self.endpoint is None:
            raise ValueError(
                "store.endpoint is needed with an s3:// store, such as https://minio.example:9000"
            )
        return self


class TrackingConfig(Frozen):
    """MLflow's tracking and registry server; `auto`: the one of the local stack."""

    uri: str = "auto"


class ReviewConfig(Frozen):
    """What a version must satisfy before it may become champion."""

    # How much worse than the champion it may be on the public set, in units of the main metric.
    allowed_loss: float = Field(default=0.0, ge=0)


class PartitionConfig(Frozen):
    """How the data of one machine is partitioned over simulated sites."""

    by: Literal["silo", "iid", "dirichlet", "shards"] = "silo"
    alpha: float = Field(default=0.3, gt=0)  # dirichlet: the smaller, the more uneven
    shards: int = Field(default=2, ge=1)  # shards of one label per site


def _partition(value: object) -> object:
    """Read `iid`, `{dirichlet: 0.3}` and `{shards: 2}` as the long form."""
    if isinstance(value, str):
        return {"by": value}
    if isinstance(value, dict) and "by" not in value:
        if "dirichlet" in value:
            return {"by": "dirichlet", "alpha": value["dirichlet"]}
        if "shards" in value:
            return {"by": "shards", "shards": value["shards"]}
    return value


class SimulationConfig(Frozen):
    """The data of the simulated sites when one machine runs all sites."""

    source: str = "sentiment"  # a corpus known to fedllm, or a JSON-lines file
    sites: Annotated[tuple[Name, ...], Field(min_length=1)] | Annotated[int, Field(ge=1, le=MANY)] = (
        "amazon",
        "movies",
        "nyt",
        "tweets",
    )
    partition: Annotated[PartitionConfig, BeforeValidator(_partition)] = PartitionConfig()
    threads: int = Field(default=1, ge=1)  # torch threads per agent

    @field_validator("sites")
    @classmethod
    def _distinct(cls, sites: tuple[str, ...] | int) -> tuple[str, ...] | int:
        if isinstance(sites, tuple) and (twice := sorted({site for site in sites if sites.count(site) > 1})):
            raise ValueError(f"each site is named once; twice: {', '.join(twice)}")
        return sites

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the sites; a count gives site-1, site-2 and so on."""
        if isinstance(self.sites, int):
            return tuple(f"site-{i + 1}" for i in range(self.sites))
        return self.sites


MODES = ["plain"]  # of confidentiality, as fedllm/confidentiality has them


def _mode(name: str) -> str:
    if name not in MODES:
        raise ValueError(f"{name!r} is no mode of confidentiality: use {' or '.join(MODES)}")
    return name


Mode = Annotated[str, Field(max_length=40), AfterValidator(_mode)]


class FederationConfig(Frozen):
    """The settings of one training of one federation. The keys are a public interface."""

    name: Name
    seed: int = Field(default=7, ge=0, lt=2**32)
    model: ModelConfig = ModelConfig()
    task: TaskConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    rounds: RoundsConfig = RoundsConfig()
    local: LocalConfig = LocalConfig()
    codec: Name = "fp32"  # encoding of updates: fp32, or fp16 at half the bytes
    aggregation: AggregationConfig = AggregationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    confidentiality: Mode = "plain"
    store: StoreConfig = StoreConfig()
    tracking: TrackingConfig = TrackingConfig()
    review: ReviewConfig = ReviewConfig()
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.task.traits.whole != (self.model.adapter.method == "full"):
            raise ValueError(f"model.adapter.method full is for task.kind {_WHOLE}, and the only one for it")
        if self.task.traits.template and not re.search(r"\{\w+\}", self.task.template):
            names = sorted(self.task.fields)
            raise ValueError(
                "task.template names no field, so every text would be the same: put "
                f"{' or '.join(f'{{{name}}}' for name in names)} into it"
            )
        if self.privacy.on and self.aggregation.weighting != "equal":
            raise ValueError(
                f"aggregation.weighting {self.aggregation.weighting} would let a private "
                "count decide how far one unit reaches: use equal with privacy"
            )
        least = self.rounds.min_sites
        if self.privacy.unit == "site" and (self.privacy.min_honest or least) > least:
            raise ValueError("privacy.min_honest is above rounds.min_sites: too little noise could remain")
        if self.privacy.unit == "site" and self.rounds.cohort < 1:
            raise ValueError("rounds.cohort must be 1 with privacy.unit site: every site is in each round")
        if self.privacy.unit == "site" and self.codec != "fp32":
            raise ValueError(
                "codec must be fp32 with privacy.unit site: the noise of all sites together hides one, so "
                "each update must arrive as it is"
            )
        if self.privacy.unit == "site" and self.aggregation.combine != "mean":
            raise ValueError(
                "aggregation.combine must be mean with privacy.unit site: the noise of all sites together "
                f"hides one, and a {self.aggregation.combine} does not add it up"
            )
        return self

    def public_json(self) -> dict[str, Any]:
        """Return the configuration as JSON for MLflow and reports; it holds no secrets."""
        return self.model_dump(mode="json")
