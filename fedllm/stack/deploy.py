"""infra/prefect.yaml, registered with a stock Prefect by Prefect's own command."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fedllm.config import load_federation
from fedllm.errors import ConfigError, StackError
from fedllm.stack.automations import FLOWS, definitions, register_automations
from fedllm.stack.health import PrefectApi
from fedllm.stack.programs import POOL
from fedllm.stack.reactions import reactions

# What the automations could act on, for their definitions' sake.
_SOME = {f"{flow}/": {"id": flow, "tags": ["scheduled"]} for flow in FLOWS}


def deployment_file() -> Path:
    """The definition of the deployments: infra/prefect.yaml, in a clone and in a wheel alike."""
    path = Path(str(resources.files("infra") / "prefect.yaml"))
    if not path.is_file():
        raise StackError(f"{path} is missing: install fedllm again")
    return path


def deploy_stamp(config: Path, api_url: str) -> str:
    """A hash that changes with what would be registered: the definition, the flows, the file, the server."""
    flows = Path(str(resources.files("flows")))
    parts = [deployment_file().read_bytes(), *(file.read_bytes() for file in sorted(flows.glob("*.py")))]
    answers = [*definitions(), *reactions(_federation(config), _SOME)]
    parts += [json.dumps(answers).encode(), str(config.resolve()).encode(), api_url.encode()]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def register_deployments(
    config: Path,
    api_url: str,
    environment: Mapping[str, str],
    *,
    activate: bool = False,
    definition: Path | None = None,
) -> list[str]:
    """Register every deployment of the definition, and the automations that resume and mark its runs.

    A schedule that somebody resumed or paused stays so: Prefect's own command would put it back to what
    the file says.

    Args:
        config: the federation file that the deployments' runs read by default.
        api_url: the Prefect to register with.
        environment: of Prefect's command; `Endpoints.environment()` for the stack's own.
        activate: resume every schedule.
        definition: a prefect.yaml other than infra/prefect.yaml.

    Returns:
        The deployments' names, as `flow/name`.

    Raises:
        ConfigError: for a federation file that is not one.
        StackError: with what Prefect said.
    """
    federation = load_federation(config)
    api = PrefectApi(api_url)
    api.ensure_pool(POOL)
    before = {name: _activity(entry["schedules"]) for name, entry in api.deployments().items()}
    said = _prefect_deploy(
        definition or deployment_file(), config, {**environment, "PREFECT_API_URL": api_url}
    )
    names = []
    for name, entry in api.deployments().items():
        if f"'{name}'" not in said:
            continue
        names.append(name)
        if activate and entry.get("paused"):
            api.call(f"/deployments/{entry['id']}/resume_deployment", {})
        for schedule in entry["schedules"]:
            active = activate or before.get(name, {}).get(_key(schedule), schedule["active"])
            if active != schedule["active"]:
                api.set_schedule(entry["id"], schedule["id"], active=active)
    if not names:
        raise StackError(f"Prefect registered nothing: {said[-300:]}")
    register_automations(api, federation=federation.name)
    return sorted(names)


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
