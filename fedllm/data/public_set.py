"""Check the public evaluation set before a start: it exists and fits the task."""

from pathlib import Path

from fedllm.config import FederationConfig, TaskConfig
from fedllm.data.minimise import needed_fields
from fedllm.data.records import Record, read_records
from fedllm.data.sources import CORPORA
from fedllm.errors import ConfigError, DataError

_OWN = "name a JSON-lines file that the coordinator owns"


def check_public_set(config: FederationConfig, *, external: bool = False) -> None:
    """Check that models can be evaluated.

    Args:
        config: the federation.
        external: the sites are elsewhere, so a simulation's corpus serves at most as the public set.

    Raises:
        ConfigError: there is no public set, or `auto` stands for a corpus that does not fit the task.
        DataError: the file cannot be read, holds no records, or has one that does not fit the task.
    """
    public = config.evaluation.public
    if config.simulation is not None and (public == "auto" or not external):
        _check_corpus(config)
    if public == "auto":
        if config.simulation is None:
            raise ConfigError(
                "evaluation.public is auto, which means the held-out part of a simulation's corpus, and "
                f"there is no `simulation`: {_OWN}"
            )
        return
    path = Path(public)
    if not path.is_file():
        raise ConfigError(f"evaluation.public: no file {path}; {_OWN}")
    for number, record in enumerate(read_records(path), start=1):
        if why := misfit(record, config.task):
            raise DataError(f"evaluation.public: {path}, record {number}: {why}")


def public_set_in_words(config: FederationConfig) -> str | None:
    """Return a sentence on `evaluation.public: auto` if it stands for a known corpus, else None."""
    source = config.simulation.source if config.simulation is not None else ""
    if config.evaluation.public != "auto" or source not in CORPORA:
        return None
    return (
        f"evaluation.public is auto: models are measured on the held-out part of the corpus {source} "
        f"({CORPORA[source].about})"
    )


def misfit(record: Record, task: TaskConfig) -> str | None:
    """Return why a record does not fit a task; None if it does."""
    if missing := sorted(needed_fields(task, None) - record.keys()):
        return f"no field {missing[0]!r}; it has {', '.join(sorted(record))}"
    if task.traits.labels:
        label = record[task.fields["label"]]
        if label not in task.labels:
            return f"label {label!r} is not in task.labels ({', '.join(task.labels)})"
    return None


def _check_corpus(config: FederationConfig) -> None:
    assert config.simulation is not None  # noqa: S101 - the caller looked
    source, task = config.simulation.source, config.task
    corpus = CORPORA.get(source)
    if corpus is None:
        return
    if missing := sorted(needed_fields(task, None) - corpus.fields):
        why = f"has no field {missing[0]!r}"
    elif task.traits.labels and (unknown := sorted(corpus.labels - task.labels.keys())):
        why = f"has the label {unknown[0]!r}, which task.labels does not"
    else:
        return
    auto = " and evaluation.public is auto" if config.evaluation.public == "auto" else ""
    raise ConfigError(
        f"simulation.source is {source}{auto}: that corpus ({corpus.about}) {why}; name JSON-lines files of "
        "your own, or leave `simulation` out where real sites take part"
    )
