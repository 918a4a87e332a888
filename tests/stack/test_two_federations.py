"""Two federations on one Prefect: each has deployments, schedules and automations of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedllm.config import load_federation
from fedllm.coordinator.members import add_site
from fedllm.endpoints import Endpoints
from fedllm.errors import ConfigError
from fedllm.secure.identity import create_identity
from fedllm.stack.automations import remove_reactions
from fedllm.stack.deploy import register_deployments
from fedllm.stack.health import PrefectApi
from fedllm.stack.reactions import BUDGET, reaction_name
from tests.cli.in_process import fedllm

FEDERATION: dict[str, Any] = {
    "model": {"base": "tiny"},
    "task": {"kind": "text", "fields": {"text": "text"}},
    "rounds": {"min_sites": 2},
}
MINE = ("mills", "harbours", "renamed")


@pytest.fixture
def api(there: Endpoints) -> Iterator[PrefectApi]:
    found = PrefectApi(there.prefect_api_url)
    yield found
    for name in MINE:
        for entry in of(found, name).values():
            found.call(f"/deployments/{entry['id']}", method="DELETE")
        remove_reactions(found, name)


def of(api: PrefectApi, federation: str) -> dict[str, dict[str, Any]]:
    """A federation's deployments."""
    tag = f"federation:{federation}"
    return {name: entry for name, entry in api.deployments().items() if tag in entry["tags"]}


def on_schedule(api: PrefectApi, federation: str) -> set[str]:
    entries = of(api, federation).items()
    return {name for name, entry in entries if any(schedule["active"] for schedule in entry["schedules"])}


def write(folder: Path, name: str, **more: object) -> Path:
    (folder / "public.jsonl").write_text('{"text": "one"}\n')
    store = {"url": f"file://{folder / 'store'}"}
    file = folder / f"{name}.yaml"
    told = FEDERATION | {"name": name, "store": store, "evaluation": {"public": "public.jsonl"}}
    file.write_text(yaml.safe_dump(told | more))
    return file


def deploy(file: Path, *more: str) -> str:
    done = fedllm("deploy", "--config", file, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_has_its_own_deployments_and_schedules(api: PrefectApi, tmp_path: Path) -> None:
    mills, harbours = write(tmp_path, "mills"), write(tmp_path, "harbours")
    for name in ("east", "west"):
        add_site(load_federation(harbours), create_identity(tmp_path / name, name).public)
    told = {name: deploy(file, "--activate") for name, file in (("mills", mills), ("harbours", harbours))}
    for name, file in (("mills", mills), ("harbours", harbours)):
        found = of(api, name)
        assert f"federated-training/{name}" in found
        assert {entry["parameters"]["config_uri"] for entry in found.values()} == {str(file)}
    assert on_schedule(api, "mills") == {"review-tags/mills"}
    assert on_schedule(api, "harbours") == {
        "review-tags/harbours",
        "site-watch/harbours",
        "federated-training/harbours-nightly",
    }
    assert "not scheduled  federated-training/mills-nightly: 0 sites are in the roster" in told["mills"]
    assert "scheduled      federated-training/harbours-nightly  every night" in told["harbours"]
    named = {entry["name"]: entry for entry in api.call("/automations/filter", {})}
    paused = {
        name: named[reaction_name(BUDGET, name)]["actions"][0]["deployment_id"]
        for name in ("mills", "harbours")
    }
    assert paused["mills"] == of(api, "mills")["federated-training/mills-nightly"]["id"]
    assert paused["harbours"] == of(api, "harbours")["federated-training/harbours-nightly"]["id"]
    # The first one's are as they were.
    deploy(mills)
    assert on_schedule(api, "harbours") >= {"federated-training/harbours-nightly"}


def test_a_file_that_was_renamed_leaves_nothing_under_its_former_name(
    api: PrefectApi, tmp_path: Path
) -> None:
    file = write(tmp_path, "mills")
    deploy(file)
    file.write_text(file.read_text().replace("name: mills", "name: renamed"))
    deploy(file)
    assert of(api, "mills") == {}
    assert "federated-training/renamed" in of(api, "renamed")
    names = {entry["name"] for entry in api.call("/automations/filter", {})}
    assert reaction_name(BUDGET, "renamed") in names
    assert reaction_name(BUDGET, "mills") not in names


def test_a_name_that_comes_to_anothers_deployment_is_refused(
    api: PrefectApi, there: Endpoints, tmp_path: Path
) -> None:
    before = api.deployments()["federated-training/sentiment-nightly"]
    file = write(tmp_path, "sentiment-nightly")
    with pytest.raises(ConfigError, match="belongs to the federation sentiment"):
        register_deployments(file, there.prefect_api_url, there.environment())
    assert api.deployments()["federated-training/sentiment-nightly"]["parameters"] == before["parameters"]


def test_what_every_run_would_refuse_is_not_deployed(api: PrefectApi, tmp_path: Path) -> None:
    file = write(tmp_path, "mills")
    add_site(load_federation(file), create_identity(tmp_path / "east", "east").public)
    done = fedllm("deploy", "--config", write(tmp_path, "mills", simulation={"sites": 2}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mills is real: east joined it" in done.stderr
    assert of(api, "mills") == {}
