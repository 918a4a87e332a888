"""The kinds of task: what configuration, data, policy and registry must know of each, without any model.

A kind's other half, what it makes of records on a model, is its own file in `fedllm.tasks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KindName = Literal["classification", "chat", "summarization", "text", "image"]


@dataclass(frozen=True)
class Kind:
    """One kind of task. `task.fields` names the record's fields; the names here are its keys."""

    needs: Mapping[str, str]  # keys beside those that the template names; what to say where one lacks
    metric: str  # the metric that counts where `evaluation.metric` is auto
    input: str = "text"  # the key of what a prediction is made from
    labels: bool = False  # whether an answer is one of `task.labels`
    template: bool = True  # whether `task.template` is filled with the record's words
    tokens: bool = True  # whether what the model reads is tokens, which are counted and cut
    whole: bool = False  # whether a small model is trained and released whole, without a base or an adapter
    most_added: int = 2  # tokens that a model's own format puts around the filled template, at most

    @property
    def continues(self) -> bool:
        """Whether the filled template itself is what is learned: there is no answer beside it."""
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
