"""The bench of DP's speed: both ways do the same work, in turns."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import fedllm.bench.dp
from fedllm.bench.dp import bench_dp
from fedllm.config import FederationConfig, load_federation
from fedllm.data.records import write_records
from fedllm.tasks.load import load_learner as load
from fedllm.training.learner import Learner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> FederationConfig:
    words = ["a fine day", "a sad day, and long, and grey", "good", "a bad thing"] * 4
    records = [
        {"id": str(i), "text": text, "label": "negative" if i % 2 else "positive"}
        for i, text in enumerate(words)
    ]
    write_records(tmp_path / "records.jsonl", records)
    sets = ["model.base=tiny", f"simulation.source={tmp_path / 'records.jsonl'}", "simulation.sites=2"]
    return load_federation(ROOT / "params.yaml", [*sets, "simulation.partition=iid", "local.batch_size=4"])


def test_both_ways_are_timed_on_the_same_records_in_turns(
    config: FederationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, list[Any]]] = []

    def watched(*args: Any, **options: Any) -> Learner:  # noqa: ANN401 - as `load_learner`
        learner = load(*args, **options)
        losses = learner.losses

        def watch(examples: Sequence[Any], size: tuple[int, ...] | None = None) -> Any:  # noqa: ANN401 - losses
            hooked = hasattr(learner.model, "autograd_grad_sample_hooks")
            seen.append((hooked, [(one.prompt, one.answer) for one in examples]))
            return losses(examples, size)

        learner.losses = watch  # type: ignore[method-assign]
        return learner

    monkeypatch.setattr(fedllm.bench.dp, "load_learner", watched)
    found = bench_dp(config, 2, lambda _: None)
    assert found["schema"] == "fedllm.bench.dp/1"
    assert found["pairs"] == 2
    for way in ("dp", "plain"):
        assert found["records_per_second"][way] == pytest.approx(4 / found["seconds"][way], rel=0.05)
    plain = Counter(one for hooked, batch in seen if not hooked for one in batch)
    private = Counter(one for hooked, batch in seen if hooked for one in batch)
    assert (
        Counter({one: times for one, times in private.items() if one in plain}) == plain
    )  # others are trials
    assert seen[0][0]
    assert not seen[-1][0]
