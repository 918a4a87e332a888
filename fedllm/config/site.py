"""The site file: what one organisation decides for itself, whatever a plan asks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedllm.config.federation import Frozen, Name, Seconds


class PolicyConfig(Frozen):
    """The site's own limits, stronger than any plan. None or empty means: no limit of my own."""

    bases: tuple[str, ...] = ()  # SHA-256 fingerprints of base models that may be trained
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    methods: tuple[Literal["ffa-lora", "lora"], ...] = ("ffa-lora", "lora")
    max_rank: int = Field(default=64, ge=1)
    max_steps: int = Field(default=1000, ge=1)  # a round; a plan that asks more is accepted with less
    max_length: int = Field(default=2048, ge=8)  # tokens a record
    min_cohort: int = Field(default=2, ge=1)  # sites a round, this one among them
    max_round: Seconds = 86400.0  # s
    tasks: tuple[str, ...] = ("classification", "chat", "summarization", "text")


class SiteConfig(Frozen):
    """One site: its name, its data and its policy."""

    name: Name
    data: Path  # JSON lines, beside this file or absolute
    base: str = "smollm2-135m"  # the base model that this site holds
    threads: int | None = Field(default=None, ge=1)  # torch threads; default: torch's own choice
    policy: PolicyConfig = PolicyConfig()
    heartbeat: Annotated[Seconds, Field(le=10)] = 10.0  # s between cards while idle; live is 35 s
    poll_near: Seconds = 0.3  # s between looks at head.json between the rounds of a training
    poll_idle: Seconds = 2.0  # s otherwise
