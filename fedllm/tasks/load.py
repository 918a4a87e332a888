"""Which file a kind of task is in, and the learner that it makes of a base model."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedllm.config.kinds import KindName
    from fedllm.models.adapter import AdaptedModel
    from fedllm.models.base import CausalModel, Tokenizer
    from fedllm.tasks.causal import CausalLearner, CausalTask
    from fedllm.tasks.task import Task, TaskLearner
    from fedllm.tasks.wording import Wording


def load_learner(folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> "TaskLearner":
    """Load a base model with a fresh adapter and what its task needs.

    Args:
        folder: of the base model, from `resolve_base`.
        adapter: what is trained.
        seed: of the federation; it fixes the adapter's start.
        task: how records become examples.

    Raises:
        ModelError: the base is not of the task's kind, or the adapter does not fit it.
    """
    from fedllm.models.folder import is_vision

    if is_vision(folder) != task.traits.whole:
        raise ModelError(f"{folder.name} and task.kind {task.kind} do not go together")
    return _task(task).fresh(folder, adapter, seed, task)


def load_released(folder: Path, adapter: Path | None, task: TaskConfig) -> "TaskLearner":
    """Load a base model with what was trained on it; arguments and errors as of `Task.released`."""
    return _task(task).released(folder, adapter, task)


def causal_learner(
    model: "AdaptedModel | CausalModel", tokenizer: "Tokenizer", task: TaskConfig
) -> "CausalLearner":
    """A causal language model that is loaded, adapted or bare, with a task on texts.

    Raises:
        ModelError: the task is not on texts.
    """
    return _causal(task).on(model, tokenizer, task)


def wording_of(tokenizer: "Tokenizer", task: TaskConfig) -> "Wording":
    """What a task on texts says in a tokenizer's tokens; no model is needed.

    Raises:
        ModelError: the task is not on texts.
    """
    return _causal(task).wording(tokenizer, task)


def _task(task: TaskConfig) -> "Task":
    return _TASKS[task.kind]()


def _causal(task: TaskConfig) -> "CausalTask":
    if not task.traits.tokens:
        raise ModelError(f"task.kind {task.kind} is not on texts")
    return cast("CausalTask", _task(task))


def _classification() -> "Task":
    from fedllm.tasks.classification import TASK

    return TASK


def _chat() -> "Task":
    from fedllm.tasks.chat import TASK

    return TASK


def _summarization() -> "Task":
    from fedllm.tasks.summarization import TASK

    return TASK


def _text() -> "Task":
    from fedllm.tasks.text import TASK

    return TASK


def _image() -> "Task":
    from fedllm.tasks.image import TASK

    return TASK


# A kind's libraries are loaded for that kind alone: where an image model is served there is no peft.
_TASKS: "Mapping[KindName, Callable[[], Task]]" = {
    "classification": _classification,
    "chat": _chat,
    "summarization": _summarization,
    "text": _text,
    "image": _image,
}
