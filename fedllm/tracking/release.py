"""The data that a round publishes: plain data, so the journal can queue it while MLflow is down."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Self

from fedllm.errors import RecordRefusedError

LONGEST = 5000  # characters of a tag that every MLflow accepts, and of a version's description
NOT_CONFIGURED = "not configured"
EXACT = "exact"  # dp.arithmetic: noise on a grid, gradients independent of who else was drawn; since 0.2
OTHER_ROUTE = (
    "MLflow's own button *Promote model* is another route: it copies a version into another registered "
    "model, checks no gate, and makes no champion here."
)
NOT_OBSERVABLE = "not observable"  # DP is on but no ledger could be checked
NO_DP = {"dp.epsilon": NOT_CONFIGURED}  # the only tag without DP; every other `dp.…` needs a plan


@dataclass(frozen=True)
class RoundRelease:
    """Everything that is published about one round. Every field is JSON; none holds a secret."""

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
    baseline: dict[str, float]  # the same for the base model, zero-shot
    champion: dict[str, float] | None = None  # the same for the version now in use
    site_rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one per site
    privacy: dict[str, str] = dataclasses.field(default_factory=lambda: dict(NO_DP))
    budget: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one `budget_row` per site
    # In the queue, the newest entry of each ledger of a site: `{"dataset", "seq", "sha256"}`. The entries
    # stay in the journal until the release is published. None: it was queued together with its ledgers.
    ledger_heads: dict[str, list[dict[str, Any]]] | None = None
    ledgers: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # a site's entries as JSON
    # With DP, one row per round up to this one: round, epsilon (largest over the sites), metrics.
    epsilon_quality: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    # `PublicAnswers` of the model, and of the base model before the first round.
    answers: dict[str, Any] | None = None
    zero_shot_answers: dict[str, Any] | None = None
    prefect_flow_run: str | None = None
    dvc_lock_sha256: str | None = None
    metric: str | None = None  # main metric; None: the task's own

    @property
    def site_list(self) -> str:
        """The sites as one tag, cut at MLflow's 5,000 characters; `sites.json` lists them all."""
        text = ",".join(self.sites)
        return text if len(text) <= LONGEST else text[: text.rindex(",", 0, LONGEST)]

    def to_json(self) -> str:
        """Return the release as one line of JSON; equal releases give equal text."""
        fields = dataclasses.asdict(self)
        if self.metric is None:
            del fields["metric"]  # keeps a queued release readable for older versions of fedllm
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of `to_json`.

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
    """Convert rows to the table format of MLflow's UI."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}


def safe_name(name: str) -> str:
    """Replace characters that MLflow does not allow in names (all but letters, digits and `_-. :/`)."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
