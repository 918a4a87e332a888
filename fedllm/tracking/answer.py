"""A model's answer to one text, with its probabilities."""

from dataclasses import dataclass
from typing import Any

from fedllm.tracking.loading import as_records


@dataclass(frozen=True)
class Answer:
    """A label with probabilities, or generated text without them."""

    text: str
    probabilities: dict[str, float] | None = None  # by label; sum to 1

    @property
    def words(self) -> str:
        """The answer for display, such as `positive (93.0 %)`."""
        if self.probabilities is None:
            return self.text
        return f"{self.text} ({100 * self.probabilities[self.text]:.1f} %)"


def answer(learner: Any, text: str) -> Answer:  # noqa: ANN401 - of any task
    """Answer one text.

    The probabilities are the softmax over the logits of the labels' first tokens; the label with the
    largest one is the answer.

    Raises:
        ModelError: the task's template needs more than one text.
    """
    from fedllm.training.evaluate import predict

    records = as_records([text], learner.task)
    probabilities = learner.probabilities(records[0])
    if probabilities is None:
        return Answer(predict(learner, records)[0])
    return Answer(max(probabilities, key=lambda label: probabilities[label]), probabilities)
