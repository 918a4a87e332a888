"""The available metrics, and the choice of the one that counts. Loads no torch."""

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
    """Return the metric that counts for a task.

    Args:
        task: the task that is measured.
        name: `evaluation.metric`; `auto` selects the task's own metric.

    Raises:
        ConfigError: there is no such metric, or it needs labels and the task has none.
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
    """Return the metric that counts in a federation. Raises `ConfigError` as `metric_of`."""
    return metric_of(config.task, config.evaluation.metric)


def chosen_name(config: FederationConfig) -> str | None:
    """Return the name of the metric that counts; None if it is the task's own.

    Raises:
        ConfigError: as `metric_of`.
    """
    name = counting_metric(config).name
    return None if name == config.task.traits.metric else name


def measured_metrics(task: TaskConfig, name: str = AUTO) -> tuple[Metric, ...]:
    """Return the metrics to measure: loss, the task's own, and the one that counts, without repeats.

    Raises:
        ConfigError: as `metric_of`.
    """
    wanted = (LOSS, metric_of(task), metric_of(task, name))
    return tuple(dict.fromkeys(wanted))


def by_precedence(chosen: str | None) -> list[Metric]:
    """Return the metrics that may count in a mapping; the first one in it counts.

    Args:
        chosen: as `chosen_name`; an unknown name is ignored.
    """
    first = METRICS.get(chosen or "")
    return [*([first] if first else []), *(metric for metric in METRICS.values() if metric.name in _OWN)]


def main_metric(metrics: Mapping[str, float], chosen: str | None = None) -> Metric:
    """Return the metric that counts among measured ones: the chosen one, else the task's own.

    Args:
        metrics: by name; metrics of groups, such as `loss/movies`, are ignored.
        chosen: as `chosen_name`.
    """
    return next((one for one in by_precedence(chosen) if one.name in metrics), LOSS)


def metric_named(key: str) -> Metric | None:
    """Return the metric of a mapping's key, such as `loss/movies`; None if there is no such metric."""
    return METRICS.get(key.partition("/")[0])


def shown(key: str, value: float) -> str:
    """Format a value by its key; four decimals if the key is no metric of fedllm."""
    metric = metric_named(key)
    return f"{value:.4f}" if metric is None else metric.shown(value)
