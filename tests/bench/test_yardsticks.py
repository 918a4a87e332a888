from pathlib import Path

import pytest

from fedllm.bench.yardsticks import yardsticks
from fedllm.config import FederationConfig, load_federation
from fedllm.data.records import write_records
from fedllm.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> FederationConfig:
    # Site a has seen good alone and site b bad alone: neither can learn the task by itself.
    records = [
        {
            "text": f"{'good' if i % 2 else 'bad'} {i}",
            "label": "positive" if i % 2 else "negative",
            "silo": "ba"[i % 2],
        }
        for i in range(80)
    ]
    write_records(tmp_path / "mine.jsonl", records)
    path = tmp_path / "fed.yaml"
    path.write_text(
        "name: t\nmodel: {base: tiny}\nlocal: {lr: 0.01, steps: 15, batch_size: 8}\nrounds: {max: 2}\n"
        "task: {labels: {positive: ' positive', negative: ' negative'}}\n"
        f"simulation: {{source: {tmp_path / 'mine.jsonl'}, sites: [a, b]}}\n"
    )
    return load_federation(path)


def test_central_training_beats_a_site_that_knows_one_label(config: FederationConfig, tmp_path: Path) -> None:
    found = yardsticks(config, [1, 2], lambda seeded: seeded.seed / 10, tmp_path)
    assert [row["seed"] for row in found["seeds"]] == [1, 2]
    assert found["mean"]["federated"] == pytest.approx(0.15)
    assert found["mean"]["central"] > found["mean"]["alone"] + 0.1
    assert set(found["seeds"][0]["alone"]) == {"a", "b"}


def test_no_seeds_are_refused(config: FederationConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        yardsticks(config, [], lambda _: 0.0, tmp_path)
