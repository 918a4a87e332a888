"""What a model makes of one text, with how sure it is."""

from dataclasses import dataclass
from typing import Any

from fedllm.tracking.loading import as_records


@dataclass(frozen=True)
class Answer:
    """A label with its probabilities, or generated text without any."""

    text: str
    probabilities: dict[str, float] | None = None  # by label; they add up to 1

    @property
    def words(self) -> str:
        """As a person reads it: `positive (93.0 %)`."""
        if self.probabilities is None:
            return self.text
        return f"{self.text} ({100 * self.probabilities[self.text]:.1f} %)"


def answer(learner: Any, text: str) -> Answer:  # noqa: ANN401 - of any task
    """Answer one text.

    The probability is over the task's labels: the softmax of their first tokens' logits, as the label
    itself is chosen.

    Raises:
        ModelError: the task's template needs more than one text.
    """
    from fedllm.training.evaluate import predict

    records = as_records([text], learner.task)
    probabilities = learner.probabilities(records[0])
    if probabilities is None:
        return Answer(predict(learner, records)[0])
    return Answer(max(probabilities, key=lambda label: probabilities[label]), probabilities)
