"""Whole private federations in one process, with the tiny model: what is claimed, told, and refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedllm
from fedllm.cli.run_summary import summary
from fedllm.config import load_federation
from fedllm.coordinator.steps import DP_AUDIT, RELEASE
from fedllm.coordinator.training import Training
from fedllm.privacy.accounting import Event, epsilon
from fedllm.protocol.messages import Answer, Card, Update
from tests.around_steps import around
from tests.test_simulation import federation

__all__ = ["federation"]

PRIVATE = (
    "privacy={unit: record, epsilon: 6, delta: 1.0e-5, clip: 0.5, sampling_rate: 0.2, noise_multiplier: 1.0}",
    "local={optimizer: sgd, lr: 0.2, steps: 3, batch_size: 6}",
    "rounds.patience=null",
)


def simulated(path: Path, *overrides: str) -> Any:  # noqa: ANN401
    return fedllm.simulate(load_federation(path, [*PRIVATE, *overrides]))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Training]]:
    """The trainings of a test, to look into their journals and their store before both are gone."""
    trainings: list[Training] = []

    def watched(training: Training, number: int) -> None:
        trainings.append(training)
        messages.update(_messages(training, number))

    around(monkeypatch, RELEASE, watched)
    yield trainings
    messages.clear()


messages: dict[str, Any] = {}


def _messages(training: Training, number: int) -> dict[str, Any]:
    mail, layout = training.mailbox, training.layout
    found: dict[str, Any] = {}
    for keys in training.roster.sites:
        place = {"run": training.run, "number": number}
        found[f"card {keys.name}"] = mail.read(layout.card(keys.name), Card, keys).message
        for kind, key in (
            (Answer, layout.answer(keys.name, training.run, number)),
            (Update, layout.update(keys.name, training.run, number)),
        ):
            found[f"{kind.__name__} {keys.name} {number}"] = mail.read(key, kind, keys, **place).message
    return found


def test_the_claim_is_what_the_ledgers_add_up_to(federation: Path) -> None:
    told = simulated(federation)
    spent = epsilon([Event(0.2, 1.0, 6)], 1e-5)
    assert [site["epsilon"] for site in told.sites.values()] == [pytest.approx(spent)] * 3
    assert told.privacy["epsilon"] == pytest.approx(spent)
    assert (told.privacy["unit"], told.privacy["delta"], told.privacy["adjacency"]) == (
        "record",
        1e-5,
        "add-remove",
    )
    assert told.privacy["budget"] == 6


def test_without_dp_epsilon_is_null_and_nothing_is_claimed(federation: Path) -> None:
    told = json.loads(simulated(federation, "privacy.unit=none", "rounds.max=1").to_json())
    assert {site["epsilon"] for site in told["sites"].values()} == {None}
    assert told["privacy"]["words"] == "no DP configured"


def test_nothing_that_rests_on_the_records_is_told_but_the_noised_update(
    federation: Path, seen: list[Training]
) -> None:
    told = simulated(federation, "rounds.max=1")
    assert seen
    assert told.seconds == {"total": None, "per_round_overhead": None}
    assert "1 rounds\n" in summary(told.public())  # without a time
    for name in ("east", "north", "west"):
        card, update = messages[f"card {name}"], messages[f"Update {name} 1"]
        assert (card.examples, card.progress) == (None, None)
        assert (update.examples, update.loss, update.seconds, update.failed) == (None, None, None, None)
        assert update.ledger
        assert messages[f"Answer {name} 1"].reason == ""


def test_two_private_trainings_differ_for_their_noise_is_nobodys_to_repeat(federation: Path) -> None:
    first, again = (simulated(federation, "rounds.max=1") for _ in range(2))
    assert first.model["sha256"] != again.model["sha256"]


def test_a_record_that_does_not_fit_fails_no_private_round(federation: Path, tmp_path: Path) -> None:
    config = load_federation(federation)
    assert config.simulation is not None
    records = [json.loads(line) for line in Path(config.simulation.source).read_text().splitlines()]
    for record in records:
        if record["silo"] == "west":
            record["label"] = "HIV positive"
    source = tmp_path / "corpus.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    told = simulated(federation, f"simulation.source={source}", "rounds.max=1")
    assert {name: site["rounds"] for name, site in told.sites.items()} == {"east": 1, "north": 1, "west": 1}


def test_persons_are_protected_where_records_name_them(federation: Path, tmp_path: Path) -> None:
    config = load_federation(federation)
    assert config.simulation is not None
    records = [json.loads(line) for line in Path(config.simulation.source).read_text().splitlines()]
    source = tmp_path / "corpus.jsonl"
    source.write_text(
        "".join(json.dumps(record | {"who": str(i % 40)}) + "\n" for i, record in enumerate(records))
    )
    told = simulated(
        federation,
        f"simulation.source={source}",
        "privacy.unit=person",
        "privacy.unit_field=who",
        "rounds.max=1",
    )
    assert told.privacy["unit"] == "person"
    assert told.privacy["epsilon"] == pytest.approx(epsilon([Event(0.2, 1.0, 3)], 1e-5))


@pytest.mark.parametrize("setting", ["codec=fp16", "aggregation.combine=median"])
def test_what_is_made_of_noised_updates_costs_no_privacy_and_passes_every_check(
    federation: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    noise: list[str] = []
    around(
        monkeypatch,
        DP_AUDIT,
        after=lambda _training, audited: noise.extend(v.checks["noise"] for v in audited.verdicts),
    )
    told = simulated(federation, setting)
    assert told.rounds == 2
    assert told.privacy["epsilon"] == pytest.approx(epsilon([Event(0.2, 1.0, 6)], 1e-5))
    assert noise == ["pass"] * 6  # three sites in two rounds


def test_whole_sites_are_hidden_by_shares_of_noise(federation: Path) -> None:
    told = simulated(
        federation,
        "privacy={unit: site, epsilon: 20, delta: 1.0e-5, clip: 0.01}",
        "rounds.max=1",
        "rounds.min_sites=3",
    )
    assert told.privacy["unit"] == "site"
    assert "coordinator sees" in told.privacy["trust_model"]
    assert told.privacy["epsilon"] <= 20
