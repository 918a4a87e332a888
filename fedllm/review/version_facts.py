"""Read a registered version's facts from MLflow: the gates use nothing else."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.errors import ReviewError
from fedllm.review.files_gate import UNCHECKED
from fedllm.review.gate import Gate
from fedllm.tracking.connection import stored
from fedllm.tracking.privacy_record import LEDGERS, TABLE
from fedllm.tracking.registry import (
    BASELINE,
    CHALLENGER,
    CHAMPION,
    EVAL,
    METRIC,
    PREVIOUS,
    numbers,
    registered,
)
from fedllm.tracking.release import EXACT, NOT_CONFIGURED
from fedllm.tracking.runs import SITES_TABLE
from fedllm.training.public_answers import ARTIFACT, PublicAnswers

if TYPE_CHECKING:
    from mlflow import MlflowClient

PRIVACY_UNIT = "privacy.unit"  # parameter of the training's run


@dataclass(frozen=True)
class VersionFacts:
    """A version's tags, and the artifacts of its round's run."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    answers: PublicAnswers | None = None
    zero_shot: PublicAnswers | None = None
    site_rows: tuple[Mapping[str, Any], ...] | None = None  # dp-audit's table; None: missing
    budget: tuple[Mapping[str, Any], ...] = ()
    ledgers: Mapping[str, tuple[str, ...]] | None = None  # entries as JSON, by site; None: missing
    files: Gate = UNCHECKED  # the files gate's result
    privacy_unit: str | None = None  # `privacy.unit` of the training's configuration; None: not on record

    @property
    def model_sha256(self) -> str:
        """Return the hash of the flat adapter."""
        return self.tags.get("model.sha256", "")

    @property
    def sites(self) -> tuple[str, ...]:
        """Return the sites whose updates count: by dp-audit's table, else by the tag, which may be cut."""
        if self.site_rows and all("counts" in row for row in self.site_rows):
            return tuple(str(row.get("site")) for row in self.site_rows if row["counts"] is True)
        return tuple(site for site in self.tags.get("fed.sites", "").split(",") if site)

    @property
    def private(self) -> bool:
        """Return whether the version claims differential privacy."""
        return self.tags.get("dp.epsilon", NOT_CONFIGURED) != NOT_CONFIGURED

    @property
    def void(self) -> bool:
        """Return whether it claims privacy of a training before 0.2, whose noise leaked through low bits."""
        return self.private and self.tags.get("dp.arithmetic") != EXACT

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics on the public set."""
        return numbers(self.tags, EVAL)

    @property
    def baseline(self) -> dict[str, float]:
        """Return the zero-shot metrics on the public set."""
        return numbers(self.tags, BASELINE)

    @property
    def metric(self) -> str | None:
        """Return the name of the metric that counts; None: the task's own."""
        return self.tags.get(METRIC)

    @property
    def records(self) -> int | None:
        """Return the number of public records of the evaluation; None if it is not on record."""
        return int(count) if (count := self.tags.get("public.records", "")).isdigit() else None


@dataclass(frozen=True)
class Aliases:
    """The versions that a federation's aliases name."""

    challenger: str | None
    champion: str | None
    previous: str | None


def read_aliases(client: "MlflowClient", name: str) -> Aliases:
    """Return the current aliases.

    Raises:
        ReviewError: No model of that name is registered.
    """
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ReviewError(f"MLflow has no model {name}: train first, with tracking") from None
        raise
    named = (aliases.get(alias) for alias in (CHALLENGER, CHAMPION, PREVIOUS))
    return Aliases(*(None if version is None else str(version) for version in named))


def read_version(client: "MlflowClient", name: str, version: str) -> VersionFacts:
    """Read a version's facts.

    Raises:
        ReviewError: There is no such version.
    """
    entry = registered(client, name, version)
    run_id = str(entry.run_id)
    run = client.get_run(run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    privacy_unit = client.get_run(parent).data.params.get(PRIVACY_UNIT) if parent else None
    artifacts = {file.path for file in stored(client.tracking_uri, lambda: client.list_artifacts(run_id))}
    wanted = artifacts & {ARTIFACT, SITES_TABLE, LEDGERS, TABLE.partition("/")[0]}
    with tempfile.TemporaryDirectory(prefix="fedllm-review-") as scratch:
        folder = Path(scratch)
        for path in sorted(wanted):
            client.download_artifacts(run_id, path, scratch)
        answers = _json(folder / ARTIFACT) or {}
        return VersionFacts(
            name=name,
            version=str(entry.version),
            run_id=run_id,
            tags=dict(entry.tags),
            answers=_answers(answers.get("model")),
            zero_shot=_answers(answers.get("zero_shot")),
            site_rows=_rows(_json(folder / SITES_TABLE)),
            budget=_rows(_json(folder / TABLE)) or (),
            ledgers=_ledgers(folder / LEDGERS),
            privacy_unit=privacy_unit,
        )


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return a file's JSON; None if it is missing or damaged, which a gate then reports."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _answers(value: object) -> PublicAnswers | None:
    try:
        return None if value is None else PublicAnswers.model_validate(value)
    except ValueError:
        return None


def _rows(table: Any) -> tuple[Mapping[str, Any], ...] | None:  # noqa: ANN401 - a table as `as_table` wrote it
    try:
        return tuple(dict(zip(table["columns"], row, strict=True)) for row in table["data"])
    except (KeyError, TypeError, ValueError):
        return None


def _ledgers(folder: Path) -> dict[str, tuple[str, ...]] | None:
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.jsonl"))
    return {file.stem: tuple(file.read_text(encoding="utf-8").splitlines()) for file in files}
