"""`fedllm run` and `fedllm demo`: a federated training from this terminal, as a Prefect flow."""

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import yaml

from fedllm.cli.options import FEDERATION, AsJson, Config, Overrides
from fedllm.cli.output import console, emit
from fedllm.cli.watching import mute_prefect, watching
from fedllm.config import FederationConfig, load_federation
from fedllm.errors import ConfigError, InterruptedRunError
from fedllm.milestones import Prepared, Preparing, report
from fedllm.tasks.metrics import main_metric

if TYPE_CHECKING:
    from rich.table import Table

Resume = Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")]
Dirty = Annotated[bool, typer.Option(help="Use managed data that differ from dvc.lock.")]
_COLUMNS = 9  # models of the table at the end, zero-shot among them: so many fit in 100 characters


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("run")(run_verb)
    app.command()(demo)


def run_verb(
    file: Annotated[Path, typer.Argument(help="The federation file.")],
    *,
    overrides: Overrides = None,
    agents: Annotated[
        Literal["local", "external"] | None,
        typer.Option(help="Who plays the sites. Default: local when the file has a `simulation`."),
    ] = None,
    resume: Resume = None,
    allow_dirty: Dirty = False,
    as_json: AsJson = False,
) -> None:
    """Train one model across a federation's sites."""
    config = load_federation(file, overrides or ())
    if resume and overrides:
        raise ConfigError("a resumed run keeps the configuration that it was started with: leave --set out")
    if agents == "local" and config.simulation is None:
        raise ConfigError(f"{file} has no `simulation`: it does not say who would hold what on this machine")
    with _resumable(config, file, resume) as run_id:
        told = run(
            config,
            source=file if not overrides else None,
            agents=agents,
            resume=resume,
            run_id=run_id,
            allow_dirty=allow_dirty,
        )
    emit(as_json, told, f"{_text(told)}\n{_next(told, file)}".rstrip())


def demo(
    *,
    config: Config = FEDERATION,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A real federated fine-tune on this machine: MinIO, Prefect, MLflow, and an agent process a site."""
    federation = load_federation(config, overrides or ())
    with _resumable(federation, config) as run_id:
        told = run(federation, source=config if not overrides else None, run_id=run_id)
    emit(as_json, told, _text(told))
    from fedllm.endpoints import endpoints

    here = endpoints()
    if here is not None and not as_json:
        console().print(
            f"\nThe rounds      {here.prefect_ui_url}"
            f"\nThe versions    {here.mlflow_url}/#/models/{told['model']['name']}"
            "\nAgain later     fedllm up, which also shows the passwords\nStop it all     fedllm down"
        )


@contextmanager
def _resumable(config: FederationConfig, file: Path, resume: str | None = None) -> Iterator[str]:
    """Give a run its id; at Ctrl-C say last of all, after whatever libraries log, how to go on with it.

    Raises:
        InterruptedRunError: Ctrl-C came.
    """
    from fedllm.journal.runs import new_run_id

    run_id = resume or new_run_id()
    try:
        yield run_id
    except KeyboardInterrupt:
        from fedllm.coordinator.training import stored_config

        if stored_config(config.name, run_id) is None:
            raise InterruptedRunError("interrupted before the first round: nothing to go on with") from None
        raise InterruptedRunError(
            "interrupted; its settings are kept, go on with: "
            f"fedllm run {shlex.quote(str(file))} --resume {run_id}"
        ) from None


def run(
    config: FederationConfig,
    *,
    source: Path | None = None,
    agents: Literal["local", "external"] | None = None,
    resume: str | None = None,
    run_id: str | None = None,
    allow_dirty: bool = False,
) -> dict[str, Any]:
    """Train one model across a federation's sites, as a flow of the Prefect at hand.

    Args:
        config: the federation.
        source: the file that `config` was read from, when nothing was changed since.
        agents: `external` when the sites' agents run elsewhere although the file has a `simulation`.
        resume: the id of a run to go on with.
        run_id: the id that a new run is to have; None: one of its own.
        allow_dirty: use managed data that differ from `dvc.lock`.

    Returns:
        The `fedllm.run/1` object.

    Raises:
        FedllmError: with what to do.
    """
    with watching(f"fedllm {config.name}"):
        _import_meanwhile()
        if resume is None:  # a resumed run has a configuration of its own, which the flow looks at
            _preflight(config, external=agents == "external")
        _servers(config)
        if resume is not None:
            _check_resumable(config, resume)
        if agents == "external" and config.simulation is not None:
            config, source = _without_simulation(config), None
        report(Preparing("libraries", "Prefect, PyTorch, transformers and peft"))
        from flows.federated_training import federated_training

        mute_prefect()
        report(Prepared("libraries", "Prefect, PyTorch, transformers and peft"))
        path = source or _written(config)
        done: dict[str, Any] = federated_training(
            config_uri=str(path.resolve()), run_id=resume or run_id, allow_dirty=allow_dirty
        )
        return done


def _import_meanwhile() -> None:
    """Import what a training needs while the servers start: half of their start is waiting.

    Not Prefect, which reads its server's address as it is imported.
    """

    def load() -> None:
        with suppress(ImportError):  # whoever needs it will say so
            import_module("peft")
            import_module("fedllm.tasks.causal")

    Thread(target=load, name="import", daemon=True).start()


def _preflight(config: FederationConfig, *, external: bool) -> None:
    """Look at what a training needs before anything starts; say what is measured where nobody chose it."""
    from fedllm.data.public_set import public_set_in_words
    from fedllm.preflight import check_store, preflight

    preflight(config, external=external)
    check_store(config)
    if external and (words := public_set_in_words(config)):
        console().print(words, markup=False, soft_wrap=True)


def _servers(config: FederationConfig) -> None:
    """Start the local stack when the configuration leans on it, and use its servers from here."""
    from fedllm.endpoints import endpoints
    from fedllm.stack import up

    leans = config.store.url == "auto" or config.tracking.uri == "auto"
    here = endpoints()
    if here is not None:
        report(Prepared("stack", "up already"))
    elif leans:
        report(Preparing("stack", "starting MinIO, its door, Prefect and MLflow"))
        here = up(progress=lambda line: report(Preparing("stack", " ".join(line.split()))))
        report(Prepared("stack", "MinIO, its door, Prefect, MLflow and a worker"))
    if here is not None:
        told = {k: v for k, v in here.environment().items() if k not in os.environ}
        named = os.environ.get("PREFECT_API_URL", here.prefect_api_url).rstrip("/")
        if named.replace("://localhost:", "://127.0.0.1:") != here.prefect_api_url:
            # Another Prefect is not told this one's password.
            told = {k: v for k, v in told.items() if not k.startswith("PREFECT_API_")}
        os.environ.update(told)


def _check_resumable(config: FederationConfig, run_id: str) -> None:
    from fedllm.coordinator.training import stored_config

    if stored_config(config.name, run_id) is None:
        raise ConfigError(f"{config.name} has no run {run_id} to resume")


def _without_simulation(config: FederationConfig) -> FederationConfig:
    """The same federation with its sites elsewhere; its public set stays the corpus' held-out part."""
    from fedllm.data.prepare import cached_data

    public = config.evaluation.public
    if public == "auto":
        public = str(cached_data(config).public)
    evaluation = config.evaluation.model_copy(update={"public": public})
    return config.model_copy(update={"simulation": None, "evaluation": evaluation})


def _written(config: FederationConfig) -> Path:
    """The configuration as a file of the coordinator's, named after its content."""
    from fedllm.journal.place import coordinator_folder

    text = yaml.safe_dump(config.public_json(), sort_keys=False)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = coordinator_folder(config.name) / f"config-{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _next(told: dict[str, Any], file: Path) -> str:
    """What a person would do now: look at the version, before anybody uses it."""
    return f"next: fedllm promote --check --config {shlex.quote(str(file))}" if told["model"]["uri"] else ""


def _text(told: dict[str, Any]) -> str:
    from io import StringIO

    from rich.console import Console

    out = Console(file=StringIO(), width=100, highlight=False)
    out.print(_table(told))
    version = told["model"]["uri"] or "waits for MLflow"
    total, beside = told["seconds"]["total"], told["seconds"]["per_round_overhead"]
    took = f" in {total:.0f} s" if total is not None else ""
    overhead = f" ({beside:.1f} s per round outside training and evaluation)" if beside is not None else ""
    out.print(f"run {told['run_id']}: {told['status']}, {told['stop_reason']}")
    out.print(f"{told['rounds']} rounds{took}{overhead}")
    out.print(f"best model: {version}, SHA-256 {told['model']['sha256']}")
    out.print(f"privacy: {told['privacy']['words']}")
    text: str = out.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return text.rstrip()


def _table(told: dict[str, Any]) -> "Table":
    """Quality by silo (rows) and round (columns); of many rounds the first and the last."""
    from rich.table import Table

    by_round: dict[str, dict[str, float]] = told["by_round"]
    metric = main_metric(by_round["0"], told.get("metric"))
    title = f"{metric.words} on the public set"
    if len(by_round) > _COLUMNS:
        numbers = list(by_round)
        kept = [*numbers[:2], *numbers[2 - _COLUMNS :]]
        title += f" (without rounds {int(kept[1]) + 1} to {int(kept[2]) - 1})"
        by_round = {number: by_round[number] for number in kept}
    table = Table(title=title)
    table.add_column("silo")
    for number in by_round:
        table.add_column("zero-shot" if number == "0" else f"round {number}", justify="right")
    groups = [name.partition("/")[2] for name in by_round["0"] if name.startswith(f"{metric.name}/")]
    groups = [] if groups == ["all"] else groups  # records without a silo are one group
    for group in groups:
        values = [metrics[f"{metric.name}/{group}"] for metrics in by_round.values()]
        table.add_row(group, *[metric.shown(value, digits=3) for value in values])
    table.add_section()
    values = [metrics[metric.name] for metrics in by_round.values()]
    table.add_row("all", *[metric.shown(value, digits=3) for value in values])
    return table
