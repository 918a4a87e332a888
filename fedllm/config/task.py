"""The settings of the task: how a record becomes a prompt and its answer."""

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedllm.config.frozen import Frozen
from fedllm.config.kinds import KINDS, Kind, KindName

MANY = 1000  # most fields, labels or layers; far above any real task or model
Word = Annotated[str, Field(max_length=200)]  # the name of a module, field or label, or a label's answer


class TaskConfig(Frozen):
    """How a record becomes a prompt and its answer."""

    kind: KindName = "classification"
    fields: dict[Word, Word] = Field(
        default_factory=lambda: {"text": "text", "label": "label"}, max_length=MANY
    )
    labels: dict[Word, Word] = Field(default_factory=dict, max_length=MANY)
    template: str = Field(default="{text}", max_length=20_000)
    max_length: int = Field(default=128, ge=8, le=8192)  # tokens of prompt and answer

    @property
    def traits(self) -> Kind:
        """Return the properties of the kind of task."""
        return KINDS[self.kind]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.traits.labels and len(self.labels) < 2:  # noqa: PLR2004 - a choice needs two
            raise ValueError("task.labels needs at least two labels for a classification")
        for key, why in self.traits.needs.items():
            if key not in self.fields:
                raise ValueError(f"task.fields needs `{key}`{why}")
        wanted = set(re.findall(r"\{(\w+)\}", self.template))
        if unknown := wanted - set(self.fields):
            raise ValueError(f"task.template names {sorted(unknown)}, which task.fields does not")
        return self
