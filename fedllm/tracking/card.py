"""The model card: one screen of markdown on a registered version."""

from typing import TYPE_CHECKING, Any

from fedllm.config import TaskConfig
from fedllm.tracking.markdown import ROWS, by_importance, cell, line, number, plain
from fedllm.tracking.release import LONGEST, NOT_CONFIGURED, OTHER_ROUTE, RoundRelease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedllm.config.kinds import Kind

_CELL = 60  # characters per cell: a site's reason may be long; `sites.json` holds it in full
_CHECKED = (
    "It first checks every file against the coordinator's signature; on another machine, pass the "
    "fingerprint from the coordinator's owner as `pin=`. `mlflow.pyfunc.load_model` checks nothing before it "
    "runs the code that the store returns."
)
_DECIDE = (
    "`fedllm promote --check` shows its gates and the command that makes it champion; Prefect's deployment "
    f"`promotion` shows the same with a form. {OTHER_ROUTE}"
)
_MORE = "\n\n… the rest is in the artifacts of the round's run.\n"


def render(release: RoundRelease, version_uri: str) -> str:
    """Write the card: quality, sites, privacy, provenance, how to load.

    Args:
        release: the round.
        version_uri: URI that a user passes to MLflow, such as `models:/sentiment@challenger`.
    """
    parts = [
        (
            f"**{release.federation}**, round {release.round} of run `{release.run}`: an adapter for "
            f"`{release.base_name}`, trained at {len(release.sites)} sites whose data stayed with them."
        ),
        "### How to decide",
        _DECIDE,
        "### Quality on the coordinator's public set",
        _quality(release),
        "### Sites",
        _sites(release),
        "### Privacy",
        _privacy(release),
        "### Provenance",
        _provenance(release),
        "### Use",
        (
            f'```python\nimport fedllm\n\nmodel = fedllm.load_model("{version_uri}")\n'
            f"model.predict({_example(release)})\n```\n\n{_CHECKED}"
        ),
        _files(release),
    ]
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= LONGEST else text[: text.rindex("\n", 0, LONGEST - len(_MORE))] + _MORE


def _quality(release: RoundRelease) -> str:
    columns: list[Mapping[str, float]] = [release.metrics, release.baseline]
    head = ["", "this version", "zero-shot"]
    if release.champion is not None:
        columns.append(release.champion)
        head.append("champion")
    names = by_importance(release.metrics, release.metric)
    lines = [line(head), line(["---", *["---:"] * len(columns)])]
    lines += [line([cell(name), *[number(name, c.get(name)) for c in columns]]) for name in names[:ROWS]]
    if len(names) > ROWS:
        lines.append(f"\n… and {len(names) - ROWS} more in the run's metrics.")
    if release.champion is None:
        lines.append("\nThere is no champion yet to compare with.")
    return "\n".join(lines)


def _sites(release: RoundRelease) -> str:
    shown = ("site", "verdict", "weight", "examples", "steps", "seconds", "bytes")
    columns = [name for name in shown if any(name in row for row in release.site_rows)]
    if not columns:
        return ", ".join(release.sites)
    lines = [line(columns), line(["---"] * len(columns))]
    lines += [
        line([cell(plain(row.get(name)), _CELL) for name in columns]) for row in release.site_rows[:ROWS]
    ]
    if len(release.site_rows) > ROWS:
        lines.append(f"\n… and {len(release.site_rows) - ROWS} more in `sites.json`.")
    return "\n".join(lines)


def _privacy(release: RoundRelease) -> str:
    tags = release.privacy
    if tags.get("dp.epsilon", NOT_CONFIGURED) == NOT_CONFIGURED:
        return (
            "**no DP configured**: the model may remember records of its sites. "
            "Only updates left the sites, signed and sealed for the coordinator, which could see each one."
        )
    lines = [f"- {cell(name.removeprefix('dp.'))}: {cell(tags[name])}" for name in sorted(tags)]
    if release.budget:
        lines += ["", *_budget(release.budget)]
    lines.append(
        "\nEpsilon is an upper bound for each site by itself: it does not cover a person's records at "
        "several sites. It is composed over the rounds, so half of the budget is not half of the rounds."
    )
    return "\n".join(lines)


def _budget(rows: list[dict[str, Any]]) -> list[str]:
    heads = {
        "site": "site",
        "epsilon": "ε spent",
        "budget": "budget",
        "left_pct": "left %",
        "steps": "steps",
        "verdict": "verdict",
    }
    lines = [line(list(heads.values())), line(["---", "---:", "---:", "---:", "---:", "---"])]
    lines += [line([cell(plain(row.get(name)), _CELL) for name in heads]) for row in rows[:ROWS]]
    if len(rows) > ROWS:
        lines.append(f"\n… and {len(rows) - ROWS} more in `privacy/budget.json`.")
    return lines


def _provenance(release: RoundRelease) -> str:
    facts = {
        "adapter SHA-256": f"`{release.model_sha256}`",
        "base SHA-256": f"`{release.base_sha256}`",
        "Prefect flow run": f"`{release.prefect_flow_run}`" if release.prefect_flow_run else "none",
        "dvc.lock SHA-256": f"`{release.dvc_lock_sha256}`" if release.dvc_lock_sha256 else "not tracked",
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _example(release: RoundRelease) -> str:
    name = _traits(release).input
    return f'[{{"{release.task.get("fields", {}).get(name, name)}": "…"}}]'


def _traits(release: RoundRelease) -> "Kind":
    return TaskConfig.model_validate(release.task).traits


def _files(release: RoundRelease) -> str:
    if _traits(release).whole:
        return "The folder `artifacts/adapter` holds the whole model: config.json and model.safetensors."
    return (
        "The folder `artifacts/adapter` is a plain peft adapter: "
        "`peft.AutoPeftModelForCausalLM.from_pretrained` loads it with the base that it names, "
        "`peft.PeftModel.from_pretrained` onto a loaded base."
    )
