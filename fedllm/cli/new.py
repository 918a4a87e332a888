"""The verb `fedllm new`: write a first federation file."""

import re
from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.options import AsJson
from fedllm.cli.output import emit
from fedllm.config.kinds import KINDS
from fedllm.config.new_file import PUBLIC, TaskKind, example_record, federation_text
from fedllm.errors import ConfigError

_LABELS = "positive,negative"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(new)


def new(
    name: Annotated[str, typer.Argument(help="The federation's name.")],
    *,
    task: Annotated[TaskKind, typer.Option(help="What the model learns.")] = "classification",
    labels: Annotated[
        str | None, typer.Option(help=f"Of a classification, with commas between. Default: {_LABELS}")
    ] = None,
    base: Annotated[
        str, typer.Option(help="The base model: a name, a hub id, a folder, or a .gguf file.")
    ] = "smollm2-135m",
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: NAME.yaml")] = None,
    as_json: AsJson = False,
) -> None:
    """At the coordinator: write the file of a federation of your own. A file that is there stays."""
    chosen = _labels(task, labels)
    text = federation_text(name, task, chosen, base)
    _check(name, text)
    path = out or Path(f"{name}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} is there already and stays as it is: choose another --out") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    following = f"fedllm up --config {path}"
    payload: dict[str, object] = {
        "schema": "fedllm.new/1",
        "federation": name,
        "file": str(path.resolve()),
        "task": task,
        "next": following,
    }
    emit(
        as_json,
        payload,
        f"{path} describes the federation {name}: read it, it is short\n"
        f"needs  {path.parent / PUBLIC}  records of your own such as {example_record(task, chosen)}\n"
        f"next   {following}",
    )


def _labels(task: TaskKind, labels: str | None) -> tuple[str, ...]:
    """Return the labels of a classification; empty for other tasks."""
    if not KINDS[task].labels:
        if labels is not None:
            raise ConfigError(f"--labels {labels}: the task {task} has none; leave it out")
        return ()
    chosen = tuple(label.strip() for label in (labels or _LABELS).split(","))
    if len(chosen) < 2 or not all(chosen) or len(set(chosen)) < len(chosen):  # noqa: PLR2004 - a choice
        raise ConfigError(f"--labels {labels!r}: write at least two different ones, such as {_LABELS}")
    return chosen


def _check(name: str, text: str) -> None:
    """Refuse a name or a text that makes an invalid file. Raises `ConfigError`."""
    from pydantic import ValidationError

    from fedllm.config.federation import FederationConfig
    from fedllm.config.frozen import NAME, PATTERNS
    from fedllm.config.yaml_text import read_yaml

    if re.fullmatch(NAME, name) is None:
        raise ConfigError(f"{name!r} is no name of a federation: {PATTERNS[NAME]}")
    try:
        FederationConfig.model_validate(read_yaml(text))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"such a file cannot be: {where}: {fault['msg']}") from None
