"""What a round hands to the record: plain data, so that a journal can keep it while MLflow is away."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from fedllm.errors import RecordRefusedError

LONGEST = 5000  # characters of a tag that every MLflow takes, and of a version's description
NOT_CONFIGURED = "not configured"
EXACT = "exact"  # dp.arithmetic: noise on a grid, gradients that are the same in every company; since 0.2
OTHER_ROUTE = (
    "MLflow's own button *Promote model* is another route: it copies a version into another registered "
    "model, asks no gate, and makes no champion here."
)
NOT_OBSERVABLE = "not observable"  # DP is on, and no ledger could be checked
NO_DP = {"dp.epsilon": NOT_CONFIGURED}  # the one tag that says so; every other `dp.…` needs a plan


@dataclass(frozen=True)
class RoundRelease:
    """All that the record learns of one round. Every field is JSON; none holds a secret."""

    federation: str  # also the experiment's and the registered model's name
    run: str
    round: int  # from 1
    sites: tuple[str, ...]  # whose updates count
    model_sha256: str  # of the flat adapter
    base_name: str
    base_sha256: str
    adapter_folder: str  # plain peft folder on this machine's disk
    task: dict[str, Any]  # TaskConfig
    config: dict[str, Any]  # FederationConfig
    metrics: dict[str, float]  # by name and as name/{silo}: on the coordinator's public set
    baseline: dict[str, float]  # the same of the base model, zero-shot
    champion: dict[str, float] | None = None  # the same of the version now in use
    site_rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one a site
    privacy: dict[str, str] = dataclasses.field(default_factory=lambda: dict(NO_DP))
    budget: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one `budget_row` a site
    # In the queue, the newest entry of each of a site's ledgers: `{"dataset", "seq", "sha256"}`. The entries
    # stay in the journal until the release is published. None: it was queued with its ledgers in it.
    ledger_heads: dict[str, list[dict[str, Any]]] | None = None
    ledgers: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # a site's entries as JSON
    # With DP, a row for each round up to this one: round, epsilon (largest over the sites), metrics.
    epsilon_quality: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    # `PublicAnswers` of the model, and of the base model before the first round.
    answers: dict[str, Any] | None = None
    zero_shot_answers: dict[str, Any] | None = None
    prefect_flow_run: str | None = None
    dvc_lock_sha256: str | None = None
    metric: str | None = None  # the one that counts; None: the task's own

    @property
    def site_list(self) -> str:
        """The sites as one tag; MLflow's end at 5,000 characters, and `sites.json` names them all."""
        text = ",".join(self.sites)
        return text if len(text) <= LONGEST else text[: text.rindex(",", 0, LONGEST)]

    def to_json(self) -> str:
        """Write it as one line of JSON, always the same for the same release."""
        fields = dataclasses.asdict(self)
        if self.metric is None:
            del fields["metric"]  # a release in the queue stays one that fedllm of before can read
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            RecordRefusedError: the text is no release of this version of fedllm.
        """
        try:
            raw = json.loads(text)
            raw["sites"] = tuple(raw["sites"])
            return cls(**raw)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordRefusedError(f"the queued release cannot be read: {error}") from None


@dataclass(frozen=True)
class PublishedVersion:
    """A model version in the registry."""

    name: str
    version: str
    uri: str  # models:/{name}/{version}
    run_id: str  # of the round's MLflow run


def as_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as MLflow's UI reads a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def safe_name(name: str) -> str:
    """MLflow's names know letters, digits and `_-. :/`; a label may hold anything."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
