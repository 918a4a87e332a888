"""The verbs `fedllm run` and `fedllm demo`: run a federated training as a Prefect flow."""

import hashlib
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

import typer
import yaml

from fedllm.cli.options import FEDERATION, AsJson, Config, Overrides
from fedllm.cli.output import console, emit
from fedllm.cli.run_summary import next_command, summary
from fedllm.cli.watching import mute_prefect, watching
from fedllm.config import FederationConfig, load_federation
from fedllm.config.overrides import Override
from fedllm.errors import ConfigError, InterruptedRunError
from fedllm.milestones import Prepared, Preparing, report

Resume = Annotated[str | None, typer.Option(metavar="RUN", help="Go on with a run that stopped.")]
Dirty = Annotated[bool, typer.Option(help="Use managed data that differ from dvc.lock.")]


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
    if resume and len(_name_override(overrides)) < len(overrides or ()):
        raise ConfigError(
            "a resumed run keeps the configuration that it was started with: leave out --set, but for name="
        )
    if agents == "local" and config.simulation is None:
        raise ConfigError(f"{file} has no `simulation`: it does not say who would hold what on this machine")
    options = [*_name_override(overrides), *(["--agents", agents] if agents else [])]
    with _resumable(config, [str(file), *options], resume) as run_id:
        result = run(
            config,
            source=file if not overrides else None,
            agents=agents,
            resume=resume,
            run_id=run_id,
            allow_dirty=allow_dirty,
        )
    emit(as_json, result, f"{summary(result)}\n{next_command(result, file)}".rstrip())


def demo(
    *,
    config: Config = FEDERATION,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A real federated fine-tune on this machine: MinIO, Prefect, MLflow, and an agent process a site."""
    federation = load_federation(config, overrides or ())
    with _resumable(federation, [str(config), *_name_override(overrides)]) as run_id:
        result = run(federation, source=config if not overrides else None, run_id=run_id)
    emit(as_json, result, summary(result))
    from fedllm.endpoints import endpoints

    servers = endpoints()
    if servers is not None and not as_json:
        console().print(
            f"\nThe rounds      {servers.prefect_ui_url}"
            f"\nThe versions    {servers.mlflow_url}/#/models/{result['model']['name']}"
            "\nAgain later     fedllm up, which also shows the passwords\nStop it all     fedllm down"
        )


@contextmanager
def _resumable(config: FederationConfig, arguments: list[str], resume: str | None = None) -> Iterator[str]:
    """Yield a run's id; at Ctrl-C raise an error that says how to go on, shown after all library logs.

    Args:
        config: the federation.
        arguments: those of `fedllm run` that find the run again.
        resume: the id of a run to resume; None: a new run.

    Raises:
        InterruptedRunError: Ctrl-C was pressed.
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
            f"fedllm run {shlex.join(arguments)} --resume {run_id}"
        ) from None


def _name_override(overrides: list[str] | None) -> list[str]:
    """Return the option that names the federation, whose journal holds the run; empty without one."""
    names = [one for one in overrides or () if Override.read(one).path == ("name",)]
    return [f"--set={one}" for one in names]


def run(
    config: FederationConfig,
    *,
    source: Path | None = None,
    agents: Literal["local", "external"] | None = None,
    resume: str | None = None,
    run_id: str | None = None,
    allow_dirty: bool = False,
) -> dict[str, Any]:
    """Train one model across a federation's sites as a Prefect flow.

    Args:
        config: the federation.
        source: the file that `config` was read from, if `config` is unchanged.
        agents: `external` if the sites' agents run elsewhere although the file has a `simulation`.
        resume: the id of a run to resume.
        run_id: the id of a new run; default: a generated one.
        allow_dirty: use managed data that differ from `dvc.lock`.

    Returns:
        The `fedllm.run/1` object.

    Raises:
        FedllmError: with a remedy.
    """
    with watching(f"fedllm {config.name}"):
        _import_meanwhile()
        if resume is None:  # the flow checks the stored configuration of a resumed run
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
    """Import the libraries of a training in a thread while the servers start, which is mostly waiting.

    Prefect is left out: it reads its server's address when it is imported.
    """

    def load() -> None:
        with suppress(ImportError):  # the later import raises it again
            import_module("peft")
            import_module("fedllm.tasks.causal")

    Thread(target=load, name="import", daemon=True).start()


def _preflight(config: FederationConfig, *, external: bool) -> None:
    """Check what a training needs before it starts; name the public set if the default is used."""
    from fedllm.data.public_set import public_set_in_words
    from fedllm.preflight import check_store, preflight

    preflight(config, external=external)
    check_store(config)
    if external and (words := public_set_in_words(config)):
        console().print(words, markup=False, soft_wrap=True)


def _servers(config: FederationConfig) -> None:
    """Start the local stack if the configuration needs it, and set its environment variables."""
    from fedllm.endpoints import endpoints
    from fedllm.stack import up

    needed = config.store.url == "auto" or config.tracking.uri == "auto"
    servers = endpoints()
    if servers is not None:
        report(Prepared("stack", "up already"))
    elif needed:
        report(Preparing("stack", "starting MinIO, its door, Prefect and MLflow"))
        servers = up(progress=lambda line: report(Preparing("stack", " ".join(line.split()))))
        report(Prepared("stack", "MinIO, its door, Prefect, MLflow and a worker"))
    if servers is not None:
        variables = {k: v for k, v in servers.environment().items() if k not in os.environ}
        url = os.environ.get("PREFECT_API_URL", servers.prefect_api_url).rstrip("/")
        if url.replace("://localhost:", "://127.0.0.1:") != servers.prefect_api_url:
            # Do not send this Prefect's password to another one.
            variables = {k: v for k, v in variables.items() if not k.startswith("PREFECT_API_")}
        os.environ.update(variables)


def _check_resumable(config: FederationConfig, run_id: str) -> None:
    from fedllm.coordinator.training import stored_config

    if stored_config(config.name, run_id) is None:
        raise ConfigError(f"{config.name} has no run {run_id} to resume")


def _without_simulation(config: FederationConfig) -> FederationConfig:
    """Return the configuration without `simulation`; `auto` still means the corpus' held-out part."""
    from fedllm.data.prepare import cached_data

    public = config.evaluation.public
    if public == "auto":
        public = str(cached_data(config).public)
    evaluation = config.evaluation.model_copy(update={"public": public})
    return config.model_copy(update={"simulation": None, "evaluation": evaluation})


def _written(config: FederationConfig) -> Path:
    """Write the configuration to the coordinator's folder, named by its hash, and return the path."""
    from fedllm.journal.location import coordinator_folder

    text = yaml.safe_dump(config.public_json(), sort_keys=False)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = coordinator_folder(config.name) / f"config-{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path
