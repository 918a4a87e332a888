"""The privacy audit as a flow: what it shows in Prefect, and how it ends."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from fedllm.agent.join import init_site, read_card
from fedllm.config import load_federation
from fedllm.coordinator.members import add_site
from fedllm.data.records import write_records
from fedllm.errors import FedllmError
from fedllm.journal.journal import Journal
from fedllm.journal.ledgers import keep_entries
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity
from flows import privacy_audit as module
from flows.privacy_audit import privacy_audit
from tests.auditing.test_site import CONFIG
from tests.privacy.ledger_home import DATA, tamper, trained

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Any:  # noqa: ANN401 - a generator
    """A Prefect of the tests' own, once for all of them."""
    with prefect_test_harness(server_startup_timeout=480):
        yield


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What is sent to Prefect as artifacts."""
    taken = SimpleNamespace(tables=[], markdown=[])
    monkeypatch.setattr(module, "create_table_artifact", lambda **told: taken.tables.append(told))
    monkeypatch.setattr(module, "create_markdown_artifact", lambda **told: taken.markdown.append(told))
    return taken


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with 40 records and the ledger of one training."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    (tmp_path / "fed.yaml").write_text(yaml.safe_dump(CONFIG))
    records = [{"text": f"text {n}", "label": ("positive", "negative")[n % 2]} for n in range(40)]
    write_records(tmp_path / "amazon.jsonl", records)
    home = tmp_path / "amazon"
    init_site("amazon", tmp_path / "amazon.jsonl", home, base="tiny", threads=1)
    with closing(Ledger(home / "ledger.db", load_identity(home / "keys"))) as ledger:
        trained(ledger)
    return home


def test_a_site_runs_it_on_its_own_prefect(site: Path, shown: SimpleNamespace) -> None:
    told = privacy_audit(str(site.parent / "fed.yaml"), home=str(site), canaries=64)
    assert told["schema"] == "fedllm.audit/1"
    assert [row["dataset"] for row in told["ledgers"]["chains"]] == [DATA]
    assert told["one_run"]["verdict"] == "no violation found"
    (table,), (words,) = shown.tables, shown.markdown
    assert table["key"] == "fed-privacy-audit"
    assert [row["check"] for row in table["table"]] == ["ledger amazon/ward-7", "one-run audit", "membership"]
    assert "never confirms one" in words["markdown"]


def test_a_broken_ledger_is_shown_and_fails_the_run(site: Path, shown: SimpleNamespace) -> None:
    assert tamper(site / "ledger.db", "DELETE FROM entry WHERE seq = 2") == 1
    with pytest.raises(FedllmError, match="ledger of ward-7 at amazon is broken"):
        privacy_audit(str(site.parent / "fed.yaml"), home=str(site), canaries=64)
    assert "broken" in shown.tables[0]["table"][0]["finding"]


def test_a_coordinator_of_real_sites_verifies_their_ledgers_and_looks_at_nobodys_data(
    site: Path, shown: SimpleNamespace
) -> None:
    file = site.parent / "fed.yaml"
    file.write_text(yaml.safe_dump(CONFIG | {"store": {"url": f"file://{site.parent / 'store'}"}}))
    add_site(load_federation(file), read_card(site / "card.json"))
    with closing(Ledger(site / "ledger.db", load_identity(site / "keys"))) as ledger:
        entries = ledger.entries(DATA, show="fed")
    with closing(Journal("fed")) as journal:
        keep_entries(journal, "amazon", entries)
    told = privacy_audit(str(file))
    (chain,) = told["ledgers"]["chains"]
    assert (chain["site"], chain["entries"], chain["head"]) == ("amazon", 5, entries[-1].sha256)
    assert told["one_run"] == {"verdict": "not observable"}
    assert told["membership"] is None
    assert [row["finding"] for row in shown.tables[0]["table"][1:]] == ["not observable"] * 2
