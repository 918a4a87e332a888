"""What MLflow holds of a registered version: all that a gate needs, and nothing from anywhere else."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.errors import ReviewError
from fedllm.review.files_gate import UNCHECKED
from fedllm.review.gate import Gate
from fedllm.tracking.budget import LEDGERS, TABLE
from fedllm.tracking.connection import stored
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

PRIVACY_UNIT = "privacy.unit"  # parameter of a training's run


@dataclass(frozen=True)
class VersionFacts:
    """A version, by its tags and the artifacts of the run of its round."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    answers: PublicAnswers | None = None
    zero_shot: PublicAnswers | None = None
    site_rows: tuple[Mapping[str, Any], ...] | None = None  # None: there is no such table
    budget: tuple[Mapping[str, Any], ...] = ()
    ledgers: Mapping[str, tuple[str, ...]] | None = None  # a site's entries as JSON; None: there are none
    files: Gate = UNCHECKED  # whether they are those of the signed record
    asked: str | None = None  # `privacy.unit` of the training's configuration; None: not on record

    @property
    def model_sha256(self) -> str:
        """Of the flat adapter."""
        return self.tags.get("model.sha256", "")

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose updates count: by dp-audit's table, else by the tag, which may be too short for all."""
        if self.site_rows and all("counts" in row for row in self.site_rows):
            return tuple(str(row.get("site")) for row in self.site_rows if row["counts"] is True)
        return tuple(site for site in self.tags.get("fed.sites", "").split(",") if site)

    @property
    def private(self) -> bool:
        """Whether anything is claimed of its privacy."""
        return self.tags.get("dp.epsilon", NOT_CONFIGURED) != NOT_CONFIGURED

    @property
    def void(self) -> bool:
        """Whether it claims privacy of a training before 0.2, whose noise could be told from low bits."""
        return self.private and self.tags.get("dp.arithmetic") != EXACT

    @property
    def metrics(self) -> dict[str, float]:
        """On the public set."""
        return numbers(self.tags, EVAL)

    @property
    def baseline(self) -> dict[str, float]:
        """The same, zero-shot."""
        return numbers(self.tags, BASELINE)

    @property
    def metric(self) -> str | None:
        """The metric that counts, as the version names it; None: the task's own."""
        return self.tags.get(METRIC)

    @property
    def records(self) -> int | None:
        """How many public records it was measured on; None where the version does not say."""
        return int(told) if (told := self.tags.get("public.records", "")).isdigit() else None


@dataclass(frozen=True)
class Aliases:
    """Which versions a federation's aliases name."""

    challenger: str | None
    champion: str | None
    previous: str | None


def read_aliases(client: "MlflowClient", name: str) -> Aliases:
    """The aliases as they are now.

    Raises:
        ReviewError: no model of that name is registered.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise ReviewError(f"MLflow has no model {name}: train first, with tracking") from None
        raise
    named = (found.get(alias) for alias in (CHALLENGER, CHAMPION, PREVIOUS))
    return Aliases(*(None if version is None else str(version) for version in named))


def read_version(client: "MlflowClient", name: str, version: str) -> VersionFacts:
    """Gather a version's facts.

    Raises:
        ReviewError: there is no such version.
    """
    found = registered(client, name, version)
    run_id = str(found.run_id)
    run = client.get_run(run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    asked = client.get_run(parent).data.params.get(PRIVACY_UNIT) if parent else None
    there = {file.path for file in stored(client.tracking_uri, lambda: client.list_artifacts(run_id))}
    wanted = there & {ARTIFACT, SITES_TABLE, LEDGERS, TABLE.partition("/")[0]}
    with tempfile.TemporaryDirectory(prefix="fedllm-review-") as scratch:
        folder = Path(scratch)
        for path in sorted(wanted):
            client.download_artifacts(run_id, path, scratch)
        answers = _json(folder / ARTIFACT) or {}
        return VersionFacts(
            name=name,
            version=str(found.version),
            run_id=run_id,
            tags=dict(found.tags),
            answers=_answers(answers.get("model")),
            zero_shot=_answers(answers.get("zero_shot")),
            site_rows=_rows(_json(folder / SITES_TABLE)),
            budget=_rows(_json(folder / TABLE)) or (),
            ledgers=_ledgers(folder / LEDGERS),
            asked=asked,
        )


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """A file's JSON; None where it is absent or damaged, which a gate then says."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _answers(told: object) -> PublicAnswers | None:
    try:
        return None if told is None else PublicAnswers.model_validate(told)
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
