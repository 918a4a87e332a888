"""Load a base model together with the task that it learns."""

from pathlib import Path

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.errors import ModelError
from fedllm.training.learner import Learner


def load_learner(folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> Learner:
    """Load a base model with a fresh adapter and what its task needs.

    Args:
        folder: of the base model, from `resolve_base`.
        adapter: what is trained.
        seed: of the federation; it fixes the adapter's start.
        task: how records become examples.

    Raises:
        ModelError: the base is not of the task's kind, or the adapter does not fit it.
    """
    from fedllm.models.base import load_base
    from fedllm.models.kind import is_vision

    if is_vision(folder) != (task.kind == "image"):
        raise ModelError(f"{folder.name} and task.kind {task.kind} do not go together")
    if task.kind == "image":
        from fedllm.models.vision import load_vision
        from fedllm.tasks.images import ImageLearner

        return ImageLearner(load_vision(folder), task)
    from fedllm.models.adapter import attach
    from fedllm.tasks.text import TextLearner

    model, tokenizer = load_base(folder)
    return TextLearner(attach(model, adapter, seed), tokenizer, task)
