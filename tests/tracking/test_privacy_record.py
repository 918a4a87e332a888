"""The privacy budget in MLflow: tags, curve, ledgers, picture, table."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedllm.protocol.entry import ChainHead
from fedllm.protocol.terms import PrivacyPlan, rounded_up
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.privacy_record import budget_row, draw, left_pct, privacy_tags
from tests.review.reviewed import SIGNER

Make = Callable[..., RoundRelease]

PLAN = PrivacyPlan(
    sampling_rate=0.02,
    noise_multiplier=0.71,
    unit="record",
    epsilon=3.0,
    delta=1e-5,
    clip=0.5,
    rounds=3,
    steps=16,
)
HEADS = {"movies": [ChainHead(seq=9, sha256="b" * 64)], "amazon": [ChainHead(seq=12, sha256="a" * 64)]}
SPENT = {1: 1.50004, 2: 2.2, 3: 2.99801}
TAGS = {
    "dp.delta": "1e-05",
    "dp.unit": "record",
    "dp.adjacency": "add-remove",
    "dp.trust_model": "local: each site adds its own noise and trusts nobody outside",
    "dp.accountant": "dp-accounting PLD, add/remove",
    "dp.arithmetic": "exact",
    "dp.epsilon_budget": "3",
}


def private(number: int) -> dict[str, Any]:
    """What a round's release adds under DP."""
    return {
        "privacy": privacy_tags(PLAN, SPENT[number], HEADS),
        "budget": [
            budget_row("amazon", spent=SPENT[number], budget=3.0, steps=16 * number, verdict="pass"),
            budget_row("movies", spent=None, budget=3.0, steps=None, verdict="its ledger was | rolled back"),
        ],
        "ledgers": {"amazon": [json.dumps({"seq": i}) for i in range(number + 1)], "movies": ['{"seq":0}']},
        "epsilon_quality": [
            {"round": i, "epsilon": SPENT[i], "accuracy": 0.8 + i / 50} for i in range(1, number + 1)
        ],
    }


@pytest.fixture
def tracker(mlflow_uri: str) -> Tracker:
    return Tracker(mlflow_uri, SIGNER)


def runs(tracker: Tracker, federation: str) -> dict[str, Any]:
    """The parent, and the rounds by their number."""
    experiment = tracker.client.get_experiment_by_name(federation)
    found = tracker.client.search_runs([experiment.experiment_id])
    return {run.data.tags.get("fed.round", "training"): run for run in found}


def artifact(tracker: Tracker, run: Any, path: str, folder: Path) -> bytes:  # noqa: ANN401 - an MLflow run
    return Path(tracker.client.download_artifacts(run.info.run_id, path, str(folder))).read_bytes()


def curve(tracker: Tracker, run: Any) -> list[tuple[int, float]]:  # noqa: ANN401 - an MLflow run
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run.info.run_id, "dp/epsilon")]


def test_epsilon_by_round_is_a_curve_of_the_training_and_publishing_twice_adds_nothing(
    tracker: Tracker, make_release: Make
) -> None:
    for number in (1, 2, 2, 3, 1):
        tracker.publish(make_release("curve", number, **private(number)))
    found = runs(tracker, "curve")
    assert curve(tracker, found["training"]) == list(SPENT.items())
    assert curve(tracker, found["2"]) == [(2, SPENT[2])]
    assert len(found) == 4
    assert len(tracker.client.search_model_versions("name = 'curve'")) == 3


def test_a_version_carries_every_privacy_tag(tracker: Tracker, make_release: Make) -> None:
    published = tracker.publish(make_release("dptags", **private(1)))
    tags = tracker.client.get_model_version("dptags", published.version).tags
    lines = f"amazon 12 {'a' * 64}\nmovies 9 {'b' * 64}\n"
    assert {name: value for name, value in tags.items() if name.startswith("dp.")} == TAGS | {
        "dp.epsilon": "1.501",  # 1.50004, rounded up: a bound
        "dp.remaining_pct": "49.9",
        "dp.ledger_sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def test_the_card_has_the_budget_of_every_site(tracker: Tracker, make_release: Make) -> None:
    published = tracker.publish(make_release("dpcard", **private(1)))
    card = tracker.client.get_model_version("dpcard", published.version).description
    assert "no DP configured" not in card
    assert "- epsilon: 1.501" in card
    assert "- unit: record" in card
    assert "| site | ε spent | budget | left % | steps | verdict |" in card
    assert "| amazon | 1.501 | 3 | 49.9 | 16 | pass |" in card
    assert "| movies | - | 3 | - | - | its ledger was \\| rolled back |" in card


def test_ledgers_picture_and_table_are_artifacts_of_round_and_training(
    tracker: Tracker, make_release: Make, tmp_path: Path
) -> None:
    for number in (1, 2):
        tracker.publish(make_release("dpfiles", number, **private(number)))
    found = runs(tracker, "dpfiles")
    for name, entries in (("1", 2), ("2", 3), ("training", 3)):
        folder = tmp_path / name
        folder.mkdir()
        lines = artifact(tracker, found[name], "ledgers/amazon.jsonl", folder).decode().splitlines()
        assert [json.loads(line)["seq"] for line in lines] == list(range(entries))
        assert artifact(tracker, found[name], "ledgers/movies.jsonl", folder) == b'{"seq":0}\n'
        assert artifact(tracker, found[name], "privacy/epsilon_quality.png", folder).startswith(b"\x89PNG")
        table = json.loads(artifact(tracker, found[name], "privacy/budget.json", folder))
        assert table["columns"] == ["site", "epsilon", "budget", "left_pct", "steps", "verdict"]
    shown_tables = json.loads(found["2"].data.tags["mlflow.loggedArtifacts"])
    assert [table["path"] for table in shown_tables] == ["sites.json", "privacy/budget.json"]


def test_a_late_release_of_an_early_round_leaves_the_trainings_newest_ledger(
    tracker: Tracker, make_release: Make, tmp_path: Path
) -> None:
    for number in (2, 1):
        tracker.publish(make_release("dplate", number, **private(number)))
    found = runs(tracker, "dplate")
    lines = artifact(tracker, found["training"], "ledgers/amazon.jsonl", tmp_path).splitlines()
    assert len(lines) == 3


class Killed(BaseException):
    """What no `except Exception` stops: the process is gone."""


def test_killed_while_writing_the_ledgers_and_published_again_gives_one_of_each(
    mlflow_uri: str, tracker: Tracker, make_release: Make, tmp_path: Path
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    dying = Tracker(mlflow_uri, SIGNER)
    dying.client.log_artifacts = die
    with pytest.raises(Killed):
        dying.publish(make_release("dpkilled", **private(1)))
    tracker.publish(make_release("dpkilled", **private(1)))
    found = runs(tracker, "dpkilled")
    assert sorted(found) == ["1", "training"]
    assert curve(tracker, found["training"]) == [(1, SPENT[1])]
    assert artifact(tracker, found["training"], "ledgers/amazon.jsonl", tmp_path)


def test_without_dp_there_is_no_curve_no_ledger_and_no_zero(tracker: Tracker, make_release: Make) -> None:
    published = tracker.publish(make_release("nodp", privacy=privacy_tags(None, None, {})))
    version = tracker.client.get_model_version("nodp", published.version)
    told = {name: value for name, value in version.tags.items() if name.startswith("dp.")}
    assert told == {"dp.epsilon": "not configured"}
    assert "**no DP configured**" in version.description
    for run in runs(tracker, "nodp").values():
        assert not [name for name in run.data.metrics if name.startswith("dp")]
        assert {file.path for file in tracker.client.list_artifacts(run.info.run_id)} <= {"sites.json"}


def test_dp_whose_ledgers_could_not_be_checked_is_not_observable_and_has_no_curve(
    tracker: Tracker, make_release: Make
) -> None:
    unseen = private(1) | {
        "privacy": privacy_tags(PLAN, None, {}),
        "epsilon_quality": [{"round": 1, "epsilon": None, "accuracy": 0.8}],
    }
    published = tracker.publish(make_release("unseen", **unseen))
    version = tracker.client.get_model_version("unseen", published.version)
    assert version.tags["dp.epsilon"] == version.tags["dp.remaining_pct"] == "not observable"
    assert version.tags["dp.unit"] == "record"
    assert curve(tracker, runs(tracker, "unseen")["training"]) == []


def test_a_private_release_survives_the_journal(make_release: Make) -> None:
    release = make_release("journal", **private(2))
    assert RoundRelease.from_json(release.to_json()) == release


@pytest.mark.parametrize("rounds", [1, 20, 21, 200])
def test_the_picture_has_every_round_and_names_no_more_than_can_be_read(
    make_release: Make, rounds: int
) -> None:
    quality = [{"round": i, "epsilon": i / 100, "accuracy": 0.5} for i in range(1, rounds + 1)]
    (axes,) = draw(make_release("many", **private(1) | {"epsilon_quality": quality})).axes
    assert len(axes.lines[0].get_xdata()) == rounds
    named = [text.get_text() for text in axes.texts]
    assert min(rounds, 10) <= len(named) <= 20
    assert named[-1] == str(rounds)


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [
        (2.99801, "2.999"),
        (3.0, "3"),
        (0.00132944, "0.00133"),
        (380.297, "380.3"),
        (0.0, "0"),
        (math.inf, "inf"),
    ],
)
def test_epsilon_is_never_shown_smaller_than_it_is(epsilon: float, told: str) -> None:
    assert rounded_up(epsilon) == told
    assert float(told) >= epsilon


@pytest.mark.parametrize(
    ("spent", "left"), [(2.9999, 0.0), (1.5, 50.0), (0.0, 100.0), (4.0, 0.0), (math.inf, 0.0)]
)
def test_what_is_left_is_never_shown_larger_than_it_is(spent: float, left: float) -> None:
    assert left_pct(spent, 3.0) == left
