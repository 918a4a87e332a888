"""What a model made of one record whose answer is known."""

from typing import NamedTuple


class Judged(NamedTuple):
    """One record's judgement; where the task has no labels there is only a loss."""

    loss: float  # nats a token of the answer
    expected: str | None = None  # the record's label
    given: str | None = None  # the label that the model finds likeliest
