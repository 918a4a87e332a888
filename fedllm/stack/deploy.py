"""infra/prefect.yaml, registered with a stock Prefect by Prefect's own command, once for each federation."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fedllm.config import load_federation
from fedllm.config.yaml_text import read_yaml
from fedllm.errors import ConfigError, StackError
from fedllm.stack.automations import FLOWS, definitions, forget_reactions, register_automations
from fedllm.stack.definition import FEDERATION, TAG
from fedllm.stack.health import PrefectApi
from fedllm.stack.programs import POOL
from fedllm.stack.reactions import reactions

_NAME = "{{ $FEDLLM_NAME }}"  # the federation's name in the definition
_BEFORE = "sentiment"  # what every federation's deployments were called before they had its name


def deployment_file() -> Path:
    """The definition of the deployments: infra/prefect.yaml, in a clone and in a wheel alike."""
    path = Path(str(resources.files("infra") / "prefect.yaml"))
    if not path.is_file():
        raise StackError(f"{path} is missing: install fedllm again")
    return path


def deployment_names(definition: Path, federation: str) -> tuple[str, ...]:
    """What a definition registers for a federation, as Prefect names it: `flow/name`."""
    text = definition.read_text(encoding="utf-8").replace(_NAME, federation)
    found = read_yaml(text)["deployments"]
    return tuple(sorted(f"{_flow(entry['entrypoint'])}/{entry['name']}" for entry in found))


def _flow(entrypoint: str) -> str:
    """The name of a flow: `flows.site_watch.site_watch` or `tick.py:tick`."""
    return entrypoint.rpartition(":")[2].rpartition(".")[2].replace("_", "-")


def deploy_stamp(config: Path, api_url: str) -> str:
    """A hash that changes with what would be registered: the definition, the flows, the file, the server."""
    flows = Path(str(resources.files("flows")))
    federation = _federation(config)
    # What the automations could act on, for their definitions' sake.
    some = {f"{flow}/": {"id": flow, "tags": ["scheduled", f"{FEDERATION}{federation}"]} for flow in FLOWS}
    parts = [deployment_file().read_bytes(), *(file.read_bytes() for file in sorted(flows.glob("*.py")))]
    answers = [*definitions(), *reactions(federation, some)]
    parts += [json.dumps(answers).encode(), str(config.resolve()).encode(), api_url.encode()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def register_deployments(
    config: Path, api_url: str, environment: Mapping[str, str], *, definition: Path | None = None
) -> list[str]:
    """Register every deployment of the definition, and the automations that resume and mark its runs.

    A schedule that somebody resumed or paused stays so: Prefect's own command would put it back to what
    the file says. Deployments of this very file under another federation's name are removed: the file was
    renamed, and they would train what it says now.

    Args:
        config: the federation file that the deployments' runs read by default.
        api_url: the Prefect to register with.
        environment: of Prefect's command; `Endpoints.environment()` for the stack's own.
        definition: a prefect.yaml other than infra/prefect.yaml.

    Returns:
        The deployments' names, as `flow/name`.

    Raises:
        ConfigError: for a federation file that is none, or a name that another federation's deployment has.
        StackError: with what Prefect said.
    """
    federation = load_federation(config).name
    file = definition or deployment_file()
    api = PrefectApi(api_url)
    api.ensure_pool(POOL)
    there = api.deployments()
    _refuse_others(deployment_names(file, federation), there, federation)
    before = {name: _activity(entry["schedules"]) for name, entry in there.items()}
    said = _prefect_deploy(
        file, config, {**environment, "PREFECT_API_URL": api_url, "FEDLLM_NAME": federation}
    )
    names = []
    for name, entry in api.deployments().items():
        if f"'{name}'" not in said:
            continue
        names.append(name)
        for schedule in entry["schedules"]:
            active = before.get(name, {}).get(_key(schedule), schedule["active"])
            if active != schedule["active"]:
                api.set_schedule(entry["id"], schedule["id"], active=active)
    if not names:
        raise StackError(f"Prefect registered nothing: {said[-300:]}")
    _remove_former(api, there, config, names)
    register_automations(api, federation=federation)
    return sorted(names)


def _refuse_others(wanted: Iterable[str], there: Mapping[str, Mapping[str, Any]], federation: str) -> None:
    """Two names of federations may come to the same deployment, such as `a` and `a-nightly`."""
    for name in wanted:
        owner = _owner(there.get(name, {}))
        if owner not in {None, federation}:
            raise ConfigError(
                f"the deployment {name} is that of the federation {owner}: give {federation} another name"
            )


def _owner(entry: Mapping[str, Any]) -> str | None:
    """The federation of a deployment, by its tag."""
    tags = [tag for tag in entry.get("tags", ()) if tag.startswith(FEDERATION)]
    return tags[0].removeprefix(FEDERATION) if tags else None


def _remove_former(
    api: PrefectApi, there: Mapping[str, Mapping[str, Any]], config: Path, names: Iterable[str]
) -> None:
    """Remove what this file registered under another federation's name, with its automations."""
    for name, entry in there.items():
        if name in names or entry["parameters"].get("config_uri") != str(config.resolve()):
            continue
        owner = _owner(entry)
        if TAG in entry["tags"] and name in deployment_names(deployment_file(), owner or _BEFORE):
            api.call(f"/deployments/{entry['id']}", method="DELETE")
            forget_reactions(api, owner or _BEFORE)


def _federation(config: Path) -> str:
    """The name in a federation file; nothing for a file that is none, which deploying will say."""
    try:
        return load_federation(config).name
    except ConfigError:
        return ""


def _prefect_deploy(definition: Path, config: Path, environment: Mapping[str, str]) -> str:
    """Run `prefect deploy --all` as a user would; its output on one line."""
    argv = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        str(definition),
    ]
    env = os.environ | dict(environment) | {"FEDLLM_CONFIG": str(config.resolve()), "COLUMNS": "400"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode:
        raise StackError(f"the deployments are not registered: {said[-400:]}")
    return said


def _key(schedule: dict[str, Any]) -> str:
    """What tells the schedules of one deployment apart."""
    if slug := schedule.get("slug"):
        return str(slug)
    # An interval's anchor is the moment of its deployment unless the file names one.
    return json.dumps({**schedule["schedule"], "anchor_date": None}, sort_keys=True)


def _activity(schedules: list[dict[str, Any]]) -> dict[str, bool]:
    return {_key(schedule): bool(schedule["active"]) for schedule in schedules}
