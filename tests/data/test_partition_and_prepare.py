from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedllm.cli.data import app
from fedllm.config import FederationConfig, PartitionConfig, load_federation
from fedllm.data.partition import hold_out, partition
from fedllm.data.prepare import load_public, prepare
from fedllm.data.records import read_records, write_records
from fedllm.errors import DataError

RECORDS = [
    {"id": str(i), "text": f"text {i}", "label": "no" if i % 3 else "yes", "silo": "a" if i < 60 else "b"}
    for i in range(200)
]
SITES = ["s1", "s2", "s3", "s4"]


@pytest.fixture
def config(tmp_path: Path) -> FederationConfig:
    write_records(tmp_path / "mine.jsonl", RECORDS)
    path = tmp_path / "fed.yaml"
    path.write_text(
        f"name: t\ntask: {{labels: {{yes_: ' positive', no_: ' negative'}}}}\n"
        f"simulation: {{source: {tmp_path / 'mine.jsonl'}, sites: [a, b]}}\n"
    )
    return load_federation(path)


@pytest.mark.parametrize("by", ["iid", "dirichlet", "shards"])
def test_every_record_goes_to_one_site(by: str) -> None:
    parts = partition(RECORDS, SITES, PartitionConfig.model_validate({"by": by}), 7)
    assert list(parts) == SITES
    assert sorted(record["id"] for part in parts.values() for record in part) == sorted(
        record["id"] for record in RECORDS
    )


def test_the_seed_decides_the_parts() -> None:
    config = PartitionConfig(by="dirichlet")
    assert partition(RECORDS, SITES, config, 7) == partition(RECORDS, SITES, config, 7)
    assert partition(RECORDS, SITES, config, 7) != partition(RECORDS, SITES, config, 8)


def test_a_small_alpha_deals_labels_less_evenly_than_a_large_one() -> None:
    def spread(alpha: float) -> float:
        parts = partition(RECORDS, SITES, PartitionConfig(by="dirichlet", alpha=alpha), 7)
        shares = [Counter(r["label"] for r in part)["yes"] / len(part) for part in parts.values()]
        return max(shares) - min(shares)

    assert spread(0.1) > spread(1000.0)


def test_one_shard_a_site_is_one_label_a_site_where_labels_divide_evenly() -> None:
    even = [{"text": str(i), "label": "xy"[i % 2]} for i in range(40)]
    parts = partition(even, SITES, PartitionConfig(by="shards", shards=1), 7)
    assert [len({record["label"] for record in part}) for part in parts.values()] == [1, 1, 1, 1]


def test_silos_go_to_the_sites_of_their_names() -> None:
    parts = partition(RECORDS, ["b", "a"], PartitionConfig(), 7)
    assert {record["silo"] for record in parts["b"]} == {"b"}
    assert {record["silo"] for record in parts["a"]} == {"a"}


def test_a_site_without_a_silo_is_refused_with_the_silos_there_are() -> None:
    with pytest.raises(DataError, match="a, b"):
        partition(RECORDS, ["a", "c"], PartitionConfig(), 7)


def test_more_sites_than_records_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        partition(RECORDS[:2], SITES, PartitionConfig(by="iid"), 7)


def test_the_public_part_is_as_large_as_asked_and_shares_nothing() -> None:
    train, public = hold_out(RECORDS, 10, 7)
    assert Counter(record["silo"] for record in public) == {"a": 10, "b": 10}
    assert not {r["id"] for r in train} & {r["id"] for r in public}
    assert len(train) + len(public) == len(RECORDS)


def test_a_small_silo_gives_at_most_a_fifth() -> None:
    _, public = hold_out(RECORDS, 500, 7)
    assert Counter(record["silo"] for record in public) == {"a": 12, "b": 28}


def test_the_command_line_and_prepare_write_the_same_bytes(config: FederationConfig, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "one")
    two = tmp_path / "two"
    for verb in ("fetch", "partition", "evalset"):
        done = CliRunner().invoke(
            app, [verb, "--config", str(tmp_path / "fed.yaml"), "--out", str(two), "--json"]
        )
        assert done.exit_code == 0, done.output
    for file in [prepared.public, *prepared.sites.values()]:
        assert file.read_bytes() == (two / file.relative_to(tmp_path / "one")).read_bytes()


def test_a_second_prepare_touches_nothing(config: FederationConfig, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    assert prepare(config, tmp_path / "d") == prepared
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")} == before


def test_a_changed_file_is_made_again(config: FederationConfig, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "d")
    good = prepared.sites["a"].read_bytes()
    prepared.sites["a"].write_text('{"text": "tampered"}\n')
    prepare(config, tmp_path / "d")
    assert prepared.sites["a"].read_bytes() == good


def test_a_public_file_of_ones_own_is_never_trained_on(config: FederationConfig, tmp_path: Path) -> None:
    write_records(tmp_path / "public.jsonl", RECORDS[:20])
    own = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"public": str(tmp_path / "public.jsonl")})}
    )
    prepared = prepare(own, tmp_path / "d")
    public = {record["text"] for record in read_records(prepared.public)}
    assert public == {record["text"] for record in RECORDS[:20]}
    assert not public & {r["text"] for path in prepared.sites.values() for r in read_records(path)}


def test_the_limit_is_a_group(config: FederationConfig, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path / "d")
    few = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"limit": 3})})
    assert Counter(record["silo"] for record in load_public(few, prepared.public)) == {"a": 3, "b": 3}


def test_the_report_counts_what_each_site_holds(config: FederationConfig, tmp_path: Path) -> None:
    from fedllm.data.report import report

    prepared = prepare(config, tmp_path / "d")
    found = report(config, tmp_path / "d", tmp_path / "r")
    held = Counter(record["label"] for record in read_records(prepared.sites["a"]))
    assert found["sites"]["a"]["labels"] == dict(held)
    assert found["overlap"] == 0
    assert (tmp_path / "r" / "data.png").read_bytes().startswith(b"\x89PNG")
