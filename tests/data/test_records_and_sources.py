import hashlib
from pathlib import Path

import pytest

from fedllm.data.records import content, distinct, read_records, write_records
from fedllm.data.sources import SOURCES, fetch_source, load_source
from fedllm.errors import DataError


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    records = [{"text": "naïve\u2028“quoted”", "label": "positive"}, {"text": "b", "id": "2"}]
    write_records(tmp_path / "a.jsonl", records)
    assert read_records(tmp_path / "a.jsonl") == records


def test_key_order_does_not_change_the_bytes(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", [{"text": "a", "id": "1"}])
    write_records(tmp_path / "b.jsonl", [{"id": "1", "text": "a"}])
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("line", ["not json", "[1]", '{"text": null}', '{"text": ["a"]}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match="line 2"):
        read_records(tmp_path / "a.jsonl")


def test_an_absent_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fedllm data fetch"):
        read_records(tmp_path / "none.jsonl")


def test_equal_texts_are_kept_once_over_all_silos() -> None:
    records = [{"text": "a", "silo": "x"}, {"text": "a", "silo": "y"}, {"text": "b", "silo": "y"}]
    assert distinct(records) == [records[0], records[2]]
    assert distinct(records, but=[{"text": "b"}]) == [records[0]]


def test_a_file_of_ones_own_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "a", "label": "x"}\n')
    assert load_source(str(tmp_path / "mine.jsonl")) == [{"id": "1", "text": "a", "label": "x"}]


def test_an_unknown_corpus_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="sentiment"):
        load_source("sentimental")


def test_the_sentiment_corpus_has_four_silos_of_distinct_texts() -> None:
    records = load_source("sentiment")
    assert {record["silo"] for record in records} == {"amazon", "movies", "nyt", "tweets"}
    assert {record["label"] for record in records} == {"positive", "negative"}
    assert len({content(record) for record in records}) == len(records)
    assert len({record["id"] for record in records}) == len(records)
    # 19,459 scored beyond ±0.5 (counted apart from this code), a few of them twice.
    assert 19_300 < len(records) <= 19_459


@pytest.mark.servers
def test_without_a_network_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(DataError) as caught:
        fetch_source("sentiment")
    assert str(tmp_path / "sources" / "vaderSentiment-3.3.2.tar.gz") in str(caught.value)
    assert SOURCES["sentiment"].package.sha256 in str(caught.value)


def test_a_file_in_its_place_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = fetch_source("sentiment")
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / archive.name).write_bytes(archive.read_bytes())
    placed = fetch_source("sentiment")
    assert hashlib.sha256(placed.read_bytes()).hexdigest() == SOURCES["sentiment"].package.sha256


def test_a_file_that_came_with_the_installation_is_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = fetch_source("sentiment")
    brought = tmp_path / "installed" / "share" / "fedllm" / "sources" / archive.name
    brought.parent.mkdir(parents=True)
    brought.write_bytes(archive.read_bytes())
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "installed"))
    assert fetch_source("sentiment") == brought
    brought.write_bytes(b"changed")
    with pytest.raises(DataError, match="SHA-256"):
        fetch_source("sentiment")


def test_changed_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / SOURCES["sentiment"].package.file).write_bytes(b"changed")
    with pytest.raises(DataError, match="SHA-256"):
        load_source("sentiment")
