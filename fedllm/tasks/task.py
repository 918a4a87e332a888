"""The seam of tasks: one interface, one file a kind; `fedllm.tasks.load` names the files."""

from pathlib import Path
from typing import Protocol

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.training.learner import Learner


class TaskLearner(Learner, Protocol):
    """A learner that also says how sure it is."""

    def probabilities(self, record: Record) -> dict[str, float] | None:
        """Probabilities of the labels for one record, which add up to 1; None where the kind gives none."""


class Task(Protocol):
    """One kind of task on models: the constant `TASK` of the kind's own file.

    What needs no model (fields, labels, template, own metric) is the kind's row in `fedllm.config.kinds`.
    This half turns a model's folder into a learner, which says the rest:

    - prompt and answer: `encode` turns records into examples, each by its record alone;
    - loss: `losses`, one an example, whatever the others are;
    - judgement: `judge`, the loss, with the expected and the given label where the kind has labels;
    - prediction: `predict`, a label where the kind has labels, else text.

    A kind neither reads a path nor runs code that a plan or a record names. The four kinds on causal language
    models differ in a `Wording` alone and share `CausalTask`.
    """

    def fresh(self, folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> TaskLearner:
        """A learner to be trained.

        Args:
            folder: of the base model.
            adapter: what is trained.
            seed: of the federation; it fixes the adapter's start.
            task: of this kind.

        Raises:
            ModelError: the adapter or the task does not fit the base.
        """

    def released(self, folder: Path, adapter: Path | None, task: TaskConfig) -> TaskLearner:
        """A learner that answers, in evaluation mode.

        Args:
            folder: of the base model; of the released files where the kind's models are released whole.
            adapter: what was trained on the base; None: the base as it is.
            task: of this kind.

        Raises:
            ModelError: what was trained does not fit the base, or the task the model.
        """
