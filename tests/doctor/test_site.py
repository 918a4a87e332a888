"""What the doctor says of a site's folder."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedllm.agent.join import init_site, open_invitation, read_card
from fedllm.agent.memory import Memory
from fedllm.cli.main import app
from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.coordinator.revoke import revoke_site
from fedllm.data.records import write_records
from fedllm.doctor import databases
from fedllm.doctor.checkup import site_checkup
from fedllm.doctor.finding import Finding
from fedllm.exchange.iam import MinioIam
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity
from fedllm.stack.minio import MinioServer
from tests.doctor.test_federation import contents
from tests.privacy.ledger_home import tamper, trained

Looked = Callable[[], dict[str, Finding]]


@pytest.fixture
def config(
    tmp_path: Path, minio_server: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> FederationConfig:
    """A federation on the real server."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "coordinator"))
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", minio_server.access_key)
    monkeypatch.setenv("FEDLLM_SECRET_KEY", minio_server.secret_key)
    return FederationConfig.model_validate(
        {
            "name": "visited",
            "model": {"base": "tiny"},
            "task": {"labels": {"positive": " positive", "negative": " negative"}},
            "store": {"url": f"s3://{bucket}", "endpoint": minio_server.endpoint},
        }
    )


@pytest.fixture
def home(tmp_path: Path, config: FederationConfig) -> Path:
    """A site that was invited, has taken part under DP, and has an agent's memory."""
    write_records(tmp_path / "amazon.jsonl", [{"text": f"text {n}", "label": "positive"} for n in range(5)])
    folder = tmp_path / "amazon"
    policy = {"max_epsilon": 3.0, "total_epsilon": 30.0, "units": ["record"], "max_delta": 1e-5}
    card = init_site(
        "amazon", tmp_path / "amazon.jsonl", folder, base="tiny", policy=policy, dataset_id="ward-7"
    )
    (folder / "amazon.invitation").write_bytes(add_site(config, read_card(card)))
    with closing(Memory(folder / "memory.db")):
        pass
    with closing(Ledger(folder / "ledger.db", load_identity(folder / "keys"))) as ledger:
        trained(ledger)
    return folder


@pytest.fixture
def iam(minio_server: MinioServer, bucket: str) -> MinioIam:
    return MinioIam(minio_server.endpoint, minio_server.access_key, minio_server.secret_key, bucket)


@pytest.fixture
def looked(home: Path) -> Looked:
    return lambda: {finding.name: finding for finding in site_checkup(home)}


def settings(home: Path, **policy: object) -> None:
    told = yaml.safe_load((home / "site.yaml").read_text())
    told["policy"] |= policy
    (home / "site.yaml").write_text(yaml.safe_dump(told))


def test_a_sound_site_is_all_green_and_nothing_of_it_changes(looked: Looked, home: Path) -> None:
    before = contents(home)
    found = looked()
    assert {name: finding for name, finding in found.items() if finding.status != "ok"} == {}
    assert set(found) == {
        *("python", "packages", "site file", "data", "keys", "ledger", "budget", "memory", "policy"),
        *("model cache", "disk", "invitation", "clock", "store"),
    }
    assert contents(home) == before


def test_a_ledger_that_was_edited_fails(looked: Looked, home: Path) -> None:
    assert tamper(home / "ledger.db", "DELETE FROM entry WHERE seq = 2") == 1
    assert looked()["ledger"].status == "fail"


def test_a_ledger_that_is_in_use_is_not_said_to_need_a_backup(
    looked: Looked, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_BUSY", 0.2)
    with closing(sqlite3.connect(home / "ledger.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("BEGIN EXCLUSIVE")
        found = looked()["ledger"]
    assert (found.status, "is locked" in found.detail) == ("warn", True), found
    (home / "ledger.db").write_bytes(b"torn" * 2000)
    found = looked()["ledger"]
    assert (found.status, "newest ledger" in found.remedy) == ("fail", True)


def test_a_budget_that_is_nearly_spent_is_told_to_its_owner(looked: Looked, home: Path) -> None:
    whole = float(looked()["budget"].detail.split("epsilon ")[1].split()[0])
    settings(home, total_epsilon=whole * 1.05, max_epsilon=whole)
    assert looked()["budget"].status == "warn"


def test_open_keys_a_missing_file_a_torn_memory_and_an_odd_policy_are_each_named(
    looked: Looked, home: Path, tmp_path: Path
) -> None:
    (home / "keys" / "age.key").chmod(0o640)
    (tmp_path / "amazon.jsonl").unlink()
    (home / "memory.db").write_bytes(b"torn" * 2000)
    settings(home, units=["none", "record"], max_epsilon=50.0)
    found = looked()
    assert (found["keys"].status, "chmod 600" in found["keys"].remedy) == ("fail", True)
    assert (found["data"].status, "no such file" in found["data"].detail) == ("fail", True)
    assert found["memory"].status == "fail"
    assert found["policy"].status == "warn"
    assert "without DP" in found["policy"].detail
    assert "more than all together" in found["policy"].detail


def test_a_site_whose_user_is_gone_is_told_to_ask_for_a_new_invitation(
    looked: Looked, config: FederationConfig, iam: MinioIam
) -> None:
    iam.remove_site(config.name, "amazon")
    found = looked()["store"]
    assert (found.status, "new invitation" in found.remedy) == ("fail", True)


def test_a_site_that_left_the_roster_sees_it(
    looked: Looked, config: FederationConfig, home: Path, iam: MinioIam
) -> None:
    told = open_invitation(home / "amazon.invitation", "amazon", load_identity(home / "keys"))
    revoke_site(config, "amazon", "left")
    iam.add_site(config.name, "amazon")
    iam._admin.user_add(told.access_key or "", told.secret_key or "")  # as if its user had been left
    found = looked()["store"]
    assert (found.status, "does not hold this site's keys" in found.detail) == ("fail", True)


def test_an_invitation_for_another_site_and_a_folder_that_is_none_are_told_in_one_line(
    home: Path, tmp_path: Path, config: FederationConfig
) -> None:
    write_records(tmp_path / "movies.jsonl", [{"text": "text", "label": "positive"}])
    other = init_site("movies", tmp_path / "movies.jsonl", tmp_path / "movies", base="tiny")
    (home / "amazon.invitation").write_bytes(add_site(config, read_card(other)))
    found = {finding.name: finding for finding in site_checkup(home)}
    assert found["invitation"].status == "fail"
    (only,) = [f for f in site_checkup(tmp_path / "nowhere") if f.status != "ok"]
    assert (only.name, only.status) == ("site file", "fail")


def test_the_verb_says_it_in_json_and_by_its_exit_code(home: Path) -> None:
    told = CliRunner().invoke(app, ["doctor", "--site", str(home), "--json"])
    assert (told.exit_code, json.loads(told.stdout)["status"]) == (0, "ok")
    (home / "keys" / "sign.key").chmod(0o644)
    told = CliRunner().invoke(app, ["doctor", "--site", str(home), "--json"])
    assert (told.exit_code, json.loads(told.stdout)["status"]) == (1, "fail")
    assert CliRunner().invoke(app, ["doctor", "--invitation", "x"]).exit_code != 0
