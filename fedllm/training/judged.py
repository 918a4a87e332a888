"""A model's result on one record with a known answer."""

from typing import NamedTuple


class Judged(NamedTuple):
    """One record's judgement; a task without labels gives the loss alone."""

    loss: float  # nats per token of the answer
    expected: str | None = None  # the record's label
    given: str | None = None  # the label that the model rates likeliest
