"""The verbs `fedllm evaluate` and `fedllm chat`: measure a model, or ask it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config, Overrides
from fedllm.cli.output import console, emit
from fedllm.config import FederationConfig, load_federation
from fedllm.errors import ConfigError, FedllmError
from fedllm.extras import require
from fedllm.tasks.loss import LOSS
from fedllm.tasks.metrics import METRICS, measured_metrics, metric_of

if TYPE_CHECKING:
    from fedllm.data.records import Record
    from fedllm.tracking.fetch import OpenedModel
    from fedllm.training.evaluate import Evaluation


Pin = Annotated[
    str | None,
    typer.Option(
        "--pin",
        metavar="FINGERPRINT",
        help="The coordinator whose signature a version needs. Default: FEDLLM_PIN, or its own keys.",
    ),
]
Unsigned = Annotated[
    bool, typer.Option("--unsigned", help="Load a version that has no signed record; nobody vouches for it.")
]


_NARROWEST = 6  # characters of a column; fits a loss below 10


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(evaluate)
    app.command()(chat)


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, a peft folder or zero-shot."),
    ] = None,
    *,
    config: Config = FEDERATION,
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Records a group, for a quick look.")] = None,
    pin: Pin = None,
    unsigned: Unsigned = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the public set, by group; default: the federation's challenger."""
    settings = load_federation(config, _with_limit(overrides, limit))
    # Check metric and public set first: they fail before a model is loaded.
    metric_of(settings.task, settings.evaluation.metric)
    records = public_records(settings)
    opened = _open(model, settings, pin, unsigned=unsigned)
    console().print(f"Evaluating {opened.name} on {len(records)} public records …")
    from fedllm.training.evaluate import evaluate as measure

    wanted = measured_metrics(opened.task, settings.evaluation.metric)
    result = measure(opened.learner, records, {metric.name: metric.compute for metric in wanted})
    payload: dict[str, object] = {
        "schema": "fedllm.evaluate/1",
        "model": opened.name,
        "count": result.count,
        "eval": result.metrics,
        "by_group": {
            name: {**group.metrics, "count": group.count} for name, group in sorted(result.by_group.items())
        },
    }
    emit(as_json, payload, "" if as_json else table(result))


def chat(
    model: Annotated[
        str | None,
        typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION, a peft folder or zero-shot."),
    ] = None,
    *,
    prompt: Annotated[str | None, typer.Option(help="Answer this text and end.")] = None,
    config: Config = FEDERATION,
    overrides: Overrides = None,
    pin: Pin = None,
    unsigned: Unsigned = False,
    as_json: AsJson = False,
) -> None:
    """Type a text and see what the model makes of it; default: the federation's challenger."""
    if as_json and prompt is None:
        raise ConfigError("--json answers one text: give it with --prompt")
    settings = load_federation(config, overrides or ())
    opened = _open(model, settings, pin, unsigned=unsigned)
    from fedllm.tracking.answer import answer

    if prompt is not None:
        reply = answer(opened.learner, prompt)
        payload: dict[str, object] = {
            "schema": "fedllm.chat/1",
            "model": opened.name,
            "prompt": prompt,
            "answer": reply.text,
            "probabilities": reply.probabilities,
        }
        emit(as_json, payload, reply.words)
        return
    console().print(f"{opened.name} is ready. An empty line or Ctrl-D ends.")
    while text := _ask():
        reply = answer(opened.learner, text)
        emit(as_json, {}, reply.words)


def public_records(config: FederationConfig) -> "list[Record]":
    """Return the configured public records; those of a known corpus are fetched if needed."""
    from fedllm.data.prepare import cached_data, load_public

    if config.evaluation.public != "auto":
        return load_public(config, Path(config.evaluation.public))
    return load_public(config, cached_data(config).public)


def tracking_uri(config: FederationConfig) -> str:
    """Return MLflow's address: the configured one, or the running stack's.

    Raises:
        FedllmError: the address is `auto`, and no stack is up.
    """
    from fedllm import versions

    uri = versions.tracking_uri(config)
    if uri is None:
        raise FedllmError("the local stack is not up, and the model is in its MLflow: run fedllm up")
    return uri


def table(result: "Evaluation") -> str:
    """Return a table by group, with all records in the last row."""
    groups = sorted(result.by_group.items()) if set(result.by_group) != {"all"} else []
    rows = [(name, group.count, group.metrics) for name, group in groups]
    rows.append(("all", result.count, result.metrics))
    wide = max(len(name) for name, *_ in rows)
    columns = {METRICS[name]: max(len(METRICS[name].words), _NARROWEST) for name in result.metrics}
    heads = [f"{metric.words:>{width}}" for metric, width in columns.items()]
    lines = ["  ".join([f"{'group':<{wide}}", "records", *heads])]
    for name, count, metrics in rows:
        cells = [f"{metric.shown(metrics[metric.name]):>{width}}" for metric, width in columns.items()]
        lines.append("  ".join([f"{name:<{wide}}", f"{count:>7}", *cells]))
    return "\n".join([*lines, f"{LOSS.words}: {LOSS.unit}, over the whole vocabulary"])


def _open(wanted: str | None, config: FederationConfig, pin: str | None, *, unsigned: bool) -> "OpenedModel":
    from fedllm.tracking.fetch import NOBODY, is_registered, open_model
    from fedllm.versions import trust_in

    chosen = wanted or f"models:/{config.name}@challenger"
    registered = is_registered(chosen)
    if registered:
        require("coordinator", chosen)
    trust = trust_in(chosen, pin, unsigned=unsigned) if registered else NOBODY
    uri = tracking_uri(config) if registered else None
    console().print(f"Loading {chosen} …")
    return open_model(chosen, config, uri, trust)


def _with_limit(overrides: list[str] | None, limit: int | None) -> list[str]:
    return [*(overrides or []), *([] if limit is None else [f"evaluation.limit={limit}"])]


def _ask() -> str:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
