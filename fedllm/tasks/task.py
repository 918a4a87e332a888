"""The interface of tasks: one file per kind; `fedllm.tasks.load` lists the files."""

from pathlib import Path
from typing import Protocol

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.training.learner import Learner


class TaskLearner(Learner, Protocol):
    """A learner that also gives probabilities."""

    def probabilities(self, record: Record) -> dict[str, float] | None:
        """Return the labels' probabilities for one record, with sum 1; None if the kind has none."""


class Task(Protocol):
    """One kind of task on models: the constant `TASK` of the kind's file.

    The parts that need no model (fields, labels, template, own metric) are the kind's row in
    `fedllm.config.kinds`. A task turns a model's folder into a learner, which defines the rest:

    - prompt and answer: `encode` turns each record into an example, from that record alone;
    - loss: `losses` gives one per example, independent of the other examples;
    - judgement: `judge` gives the loss, with expected and given label where the kind has labels;
    - prediction: `predict` gives a label where the kind has labels, else text.

    A kind neither reads a path nor runs code that a plan or a record names. The four kinds on causal language
    models share `CausalTask` and differ only in the `Wording`.
    """

    def fresh(self, folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> TaskLearner:
        """Return a learner for training.

        Args:
            folder: of the base model.
            adapter: the adapter to train.
            seed: of the federation; it fixes the adapter's start.
            task: of this kind.

        Raises:
            ModelError: the adapter or the task does not fit the base.
        """

    def released(self, folder: Path, adapter: Path | None, task: TaskConfig) -> TaskLearner:
        """Return a learner for prediction, in evaluation mode.

        Args:
            folder: of the base model, or of the released files where the kind releases whole models.
            adapter: what was trained on the base; None: the base alone.
            task: of this kind.

        Raises:
            ModelError: the adapter does not fit the base, or the task does not fit the model.
        """
