"""The bench of releases: a private federation that plays itself, with every step the product's."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from fedllm.bench.release import SCHEMA, bench_release


def test_each_round_is_released_into_an_mlflow_of_its_own_and_reads_as_much_as_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm.bench.release.MARKS", (2, 3, 4))
    monkeypatch.setattr("fedllm.bench.release.AROUND", 0)
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path))
    found = bench_release(4, 2, lambda _text: None)
    assert (found["schema"], found["rounds"], found["sites"]) == (SCHEMA, 4, 2)
    assert list(found["by_round"]) == list(found["body_bytes"]) == ["2", "3", "4"]
    for before, after in pairwise(found["by_round"].values()):
        assert after["journal_reads"] == before["journal_reads"]
        assert after["mlflow_statements"] > 0
    assert max(found["body_bytes"].values()) - min(found["body_bytes"].values()) < 100
    assert os.environ["FEDLLM_HOME"] == str(tmp_path)
    assert not (tmp_path / "coordinator").exists()
