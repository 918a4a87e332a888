"""The properties of each kind of task that do not need a model.

How a kind trains and predicts is in its own file in `fedllm.tasks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KindName = Literal["classification", "chat", "summarization", "text", "image"]


@dataclass(frozen=True)
class Kind:
    """The properties of one kind of task. Field names here are keys of `task.fields`."""

    needs: Mapping[str, str]  # required keys beside the template's, and the hint if one is missing
    metric: str  # the main metric if `evaluation.metric` is auto
    input: str = "text"  # key of the field that a prediction is made from
    labels: bool = False  # the answer is one of `task.labels`
    template: bool = True  # `task.template` is filled with the record's fields
    tokens: bool = True  # the model reads tokens, which are counted and cut
    whole: bool = False  # a small model is trained and released whole, without base or adapter
    most_added: int = 2  # most tokens that a model's chat format adds to the filled template

    @property
    def continues(self) -> bool:
        """Return whether the model learns to continue the filled template, without a separate answer."""
        return not self.needs


_LABEL = " for a classification"

KINDS: Mapping[KindName, Kind] = {
    "classification": Kind(needs={"label": _LABEL}, metric="accuracy", labels=True),
    "chat": Kind(needs={"answer": " for chat: the words to learn"}, metric="loss", most_added=64),
    "summarization": Kind(needs={"answer": " for summarization: the words to learn"}, metric="loss"),
    "text": Kind(needs={}, metric="loss"),
    "image": Kind(
        needs={"label": _LABEL, "image": ": the field that holds the pixels"},
        metric="accuracy",
        input="image",
        labels=True,
        template=False,
        tokens=False,
        whole=True,
    ),
}
