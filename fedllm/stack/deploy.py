"""Register infra/prefect.yaml with Prefect by Prefect's own command, once per federation."""

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
from fedllm.stack.automations import FLOWS, definitions, register_automations, remove_reactions
from fedllm.stack.definition import FEDERATION, TAG
from fedllm.stack.health import PrefectApi
from fedllm.stack.programs import POOL
from fedllm.stack.reactions import reactions

_NAME = "{{ $FEDLLM_NAME }}"  # the federation's name in the definition
_BEFORE = "sentiment"  # the name of all deployments in older versions, which did not name the federation


def deployment_file() -> Path:
    """Return the path of infra/prefect.yaml, which defines the deployments, in a clone or a wheel."""
    path = Path(str(resources.files("infra") / "prefect.yaml"))
    if not path.is_file():
        raise StackError(f"{path} is missing: install fedllm again")
    return path


def deployment_names(definition: Path, federation: str) -> tuple[str, ...]:
    """Return the names, as `flow/name`, of the deployments that a definition registers for a federation."""
    text = definition.read_text(encoding="utf-8").replace(_NAME, federation)
    entries = read_yaml(text)["deployments"]
    return tuple(sorted(f"{_flow(entry['entrypoint'])}/{entry['name']}" for entry in entries))


def _flow(entrypoint: str) -> str:
    """Return a flow's name from an entrypoint such as `flows.site_watch.site_watch` or `tick.py:tick`."""
    return entrypoint.rpartition(":")[2].rpartition(".")[2].replace("_", "-")


def deploy_stamp(config: Path, api_url: str) -> str:
    """Return a hash of all that is registered: the definition, the flows, the file, the server's address."""
    flows = Path(str(resources.files("flows")))
    federation = _federation(config)
    # Placeholder deployments, so that the automations' definitions are complete.
    some = {f"{flow}/": {"id": flow, "tags": ["scheduled", f"{FEDERATION}{federation}"]} for flow in FLOWS}
    parts = [deployment_file().read_bytes(), *(file.read_bytes() for file in sorted(flows.glob("*.py")))]
    automations = [*definitions(), *reactions(federation, some)]
    parts += [json.dumps(automations).encode(), str(config.resolve()).encode(), api_url.encode()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def register_deployments(
    config: Path, api_url: str, environment: Mapping[str, str], *, definition: Path | None = None
) -> list[str]:
    """Register every deployment of the definition, and the automations for its runs.

    A schedule that somebody resumed or paused stays so; Prefect's own command would reset it to the file.
    Deployments of this federation file under another federation's name are removed: the file was renamed, and
    they would train its current content.

    Args:
        config: the federation file that the deployments' runs read by default.
        api_url: the Prefect to register with.
        environment: of Prefect's command; `Endpoints.environment()` for the stack's own.
        definition: a prefect.yaml other than infra/prefect.yaml.

    Returns:
        The deployments' names, as `flow/name`.

    Raises:
        ConfigError: the federation file is invalid, or another federation's deployment has the same name.
        StackError: Prefect's command failed; contains its output.
    """
    federation = load_federation(config).name
    file = definition or deployment_file()
    api = PrefectApi(api_url)
    api.ensure_pool(POOL)
    existing = api.deployments()
    _refuse_others(deployment_names(file, federation), existing, federation)
    before = {name: _activity(entry["schedules"]) for name, entry in existing.items()}
    output = _prefect_deploy(
        file, config, {**environment, "PREFECT_API_URL": api_url, "FEDLLM_NAME": federation}
    )
    names = []
    for name, entry in api.deployments().items():
        if f"'{name}'" not in output:
            continue
        names.append(name)
        for schedule in entry["schedules"]:
            active = before.get(name, {}).get(_key(schedule), schedule["active"])
            if active != schedule["active"]:
                api.set_schedule(entry["id"], schedule["id"], active=active)
    if not names:
        raise StackError(f"Prefect registered nothing: {output[-300:]}")
    _remove_former(api, existing, config, names)
    register_automations(api, federation=federation)
    return sorted(names)


def _refuse_others(wanted: Iterable[str], existing: Mapping[str, Mapping[str, Any]], federation: str) -> None:
    """Refuse names that another federation's deployments have, as `a` and `a-nightly` could share some."""
    for name in wanted:
        owner = _owner(existing.get(name, {}))
        if owner not in {None, federation}:
            raise ConfigError(
                f"the deployment {name} belongs to the federation {owner}: give {federation} another name"
            )


def _owner(entry: Mapping[str, Any]) -> str | None:
    """Return a deployment's federation from its tag."""
    tags = [tag for tag in entry.get("tags", ()) if tag.startswith(FEDERATION)]
    return tags[0].removeprefix(FEDERATION) if tags else None


def _remove_former(
    api: PrefectApi, existing: Mapping[str, Mapping[str, Any]], config: Path, names: Iterable[str]
) -> None:
    """Remove this file's deployments under another federation's name, and their automations."""
    for name, entry in existing.items():
        if name in names or entry["parameters"].get("config_uri") != str(config.resolve()):
            continue
        owner = _owner(entry)
        if TAG in entry["tags"] and name in deployment_names(deployment_file(), owner or _BEFORE):
            api.call(f"/deployments/{entry['id']}", method="DELETE")
            remove_reactions(api, owner or _BEFORE)


def _federation(config: Path) -> str:
    """Return the name in a federation file; "" for an invalid file, which `register_deployments` reports."""
    try:
        return load_federation(config).name
    except ConfigError:
        return ""


def _prefect_deploy(definition: Path, config: Path, environment: Mapping[str, str]) -> str:
    """Run `prefect deploy --all` and return its output as one line."""
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
    output = " ".join((done.stdout + done.stderr).split())
    if done.returncode:
        raise StackError(f"the deployments are not registered: {output[-400:]}")
    return output


def _key(schedule: dict[str, Any]) -> str:
    """Return a key that is unique among the schedules of one deployment."""
    if slug := schedule.get("slug"):
        return str(slug)
    # An interval's anchor defaults to the time of the deployment, so it is no part of the key.
    return json.dumps({**schedule["schedule"], "anchor_date": None}, sort_keys=True)


def _activity(schedules: list[dict[str, Any]]) -> dict[str, bool]:
    return {_key(schedule): bool(schedule["active"]) for schedule in schedules}
