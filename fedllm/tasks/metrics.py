"""The metrics that there are, and which of them counts. Loads no torch."""

from collections.abc import Mapping

from fedllm.config import FederationConfig, TaskConfig
from fedllm.config.kinds import KINDS
from fedllm.errors import ConfigError
from fedllm.tasks.accuracy import ACCURACY
from fedllm.tasks.loss import LOSS
from fedllm.tasks.macro_f1 import MACRO_F1
from fedllm.tasks.metric import Metric

AUTO = "auto"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        ACCURACY,
        LOSS,
        MACRO_F1,
    )
}

_OWN = {kind.metric for kind in KINDS.values()}


def metric_of(task: TaskConfig, name: str = AUTO) -> Metric:
    """The metric that counts for a task.

    Args:
        task: what is measured.
        name: `evaluation.metric`; auto: the task's own.

    Raises:
        ConfigError: there is no such metric, or the task has no labels that it could be computed from.
    """
    if name == AUTO:
        return METRICS[task.traits.metric]
    usable = ", ".join(one.name for one in METRICS.values() if task.traits.labels or not one.of_labels)
    if name not in METRICS:
        raise ConfigError(f"evaluation.metric: there is no metric {name!r}; use {AUTO} or {usable}")
    if METRICS[name].of_labels and not task.traits.labels:
        raise ConfigError(
            f"evaluation.metric: {name} needs labels, and task.kind {task.kind} has none; "
            f"use {AUTO} or {usable}"
        )
    return METRICS[name]


def counting_metric(config: FederationConfig) -> Metric:
    """The metric that counts in a federation. Raises `ConfigError` as `metric_of`."""
    return metric_of(config.task, config.evaluation.metric)


def chosen_name(config: FederationConfig) -> str | None:
    """The name of the metric that counts where it is not the task's own; None: it is.

    Raises:
        ConfigError: as `metric_of`.
    """
    name = counting_metric(config).name
    return None if name == config.task.traits.metric else name


def measured_metrics(task: TaskConfig, name: str = AUTO) -> tuple[Metric, ...]:
    """What is measured of a model: loss, the task's own metric, and the one that counts, each once.

    Raises:
        ConfigError: as `metric_of`.
    """
    wanted = (LOSS, metric_of(task), metric_of(task, name))
    return tuple(dict.fromkeys(wanted))


def by_precedence(chosen: str | None) -> list[Metric]:
    """The metrics that may count in a mapping, the first that is in it does.

    Args:
        chosen: as `chosen_name`; what is no metric here is passed over.
    """
    first = METRICS.get(chosen or "")
    return [*([first] if first else []), *(metric for metric in METRICS.values() if metric.name in _OWN)]


def main_metric(metrics: Mapping[str, float], chosen: str | None = None) -> Metric:
    """The metric that counts among measured ones: the chosen one, else the task's own.

    Args:
        metrics: by name; those of groups, such as `loss/movies`, are passed over.
        chosen: as `chosen_name`.
    """
    return next((one for one in by_precedence(chosen) if one.name in metrics), LOSS)


def metric_named(key: str) -> Metric | None:
    """The metric of a mapping's key, such as `loss/movies`; None where there is no such metric."""
    return METRICS.get(key.partition("/")[0])


def shown(key: str, value: float) -> str:
    """A value of a mapping by its key; what is no metric of fedllm is a number with four digits."""
    metric = metric_named(key)
    return f"{value:.4f}" if metric is None else metric.shown(value)
