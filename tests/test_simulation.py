"""Whole federations in one process, with the tiny model: what the rounds do when sites differ."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedllm
from fedllm.config import FederationConfig, load_federation
from fedllm.coordinator.steps import DP_AUDIT
from fedllm.coordinator.training import Training
from fedllm.errors import ConfigError, RoundError
from fedllm.journal.outcomes import Audited
from fedllm.milestones import Ended, Measured, Milestone, RoundBegun, RoundOver, SiteDone, watched_by
from tests.around_steps import around

SITES = ["east", "north", "west"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    rng = random.Random(3)
    for name, count in (("corpus", 90), ("public", 30)):
        with (folder / f"{name}.jsonl").open("w") as out:
            for number in range(count):
                label = rng.choice(["positive", "negative"])
                words = " ".join(
                    rng.choices(["good", "fine"] if label == "positive" else ["bad", "poor"], k=4)
                )
                silo = SITES[number % 3]
                text = f"{silo} {words} {name} {number}"
                out.write(json.dumps({"id": str(number), "silo": silo, "text": text, "label": label}) + "\n")
    config = {
        "name": "small",
        "model": {"base": "tiny"},
        "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
        "evaluation": {"public": str(folder / "public.jsonl")},
        "rounds": {"max": 2, "deadline": "600s"},
        "local": {"lr": 0.02, "steps": 4, "batch_size": 4},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def simulated(path: Path, *overrides: str) -> Any:  # noqa: ANN401
    config: FederationConfig = load_federation(path, overrides)
    return fedllm.simulate(config)


def test_the_same_seed_gives_the_same_model_to_the_bit_and_another_does_not(federation: Path) -> None:
    first, again = simulated(federation), simulated(federation)
    other = simulated(federation, "seed=8")
    assert first.model["sha256"] == again.model["sha256"] != other.model["sha256"]
    assert first.eval["loss"] < first.baseline["zero_shot"]["loss"]


def test_zero_shot_is_measured_once_and_while_the_sites_train(federation: Path) -> None:
    seen: list[Milestone] = []
    with watched_by(seen.append):
        simulated(federation)
    told = [m for m in seen if isinstance(m, (RoundBegun, Measured, RoundOver, Ended))]
    assert [(type(m), getattr(m, "round", None)) for m in told] == [
        (RoundBegun, 1),
        (Measured, 0),
        (Measured, 1),
        (RoundOver, 1),
        (RoundBegun, 2),
        (Measured, 2),
        (RoundOver, 2),
        (Ended, None),
    ]
    assert {(m.round, m.site) for m in seen if isinstance(m, SiteDone)} == {
        (number, site) for number in (1, 2) for site in SITES
    }


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_server_optimisers_carry_their_state_from_round_to_round(federation: Path, strategy: str) -> None:
    told = simulated(
        federation, f"aggregation.strategy={strategy}", "aggregation.lr=0.01", "rounds.patience=null"
    )
    assert told.rounds == 2
    assert told.model["sha256"]


@pytest.mark.parametrize("weighting", ["equal", "work", "examples"])
def test_every_weighting_completes(federation: Path, weighting: str) -> None:
    assert simulated(federation, f"aggregation.weighting={weighting}", "rounds.max=1").status == "completed"


def test_a_training_in_fp16_takes_half_the_bytes_and_ends_near_the_one_in_fp32(federation: Path) -> None:
    exact, half = simulated(federation), simulated(federation, "codec=fp16")
    assert half.rounds == exact.rounds == 2
    assert half.model["sha256"] != exact.model["sha256"]
    assert half.eval["loss"] == pytest.approx(exact.eval["loss"], abs=1e-3)
    assert half.model["sha256"] == simulated(federation, "codec=fp16").model["sha256"]
    for name, site in exact.sites.items():
        sealing = 2 * 300  # bytes of headers and keys, some at random, in each of two rounds
        assert half.sites[name]["bytes_up"] <= site["bytes_up"] / 2 + sealing < site["bytes_up"]


def test_a_codec_that_is_not_known_is_refused_before_anything_begins(federation: Path) -> None:
    with pytest.raises(ConfigError, match="codec 'fp61' is not known"):
        simulated(federation, "codec=fp61")


def test_a_training_by_the_median_learns_and_is_the_same_to_the_bit(federation: Path) -> None:
    first, again = (simulated(federation, "aggregation.combine=median") for _ in range(2))
    assert first.model["sha256"] == again.model["sha256"]
    assert first.model["sha256"] != simulated(federation).model["sha256"]
    assert first.eval["loss"] < first.baseline["zero_shot"]["loss"]


def test_fedprox_holds_the_sites_nearer_to_the_global_model(federation: Path) -> None:
    plain = simulated(federation, "rounds.max=1", "local.optimizer=sgd", "local.lr=0.5")
    held = simulated(
        federation,
        "rounds.max=1",
        "local.optimizer=sgd",
        "local.lr=0.5",
        "local.algorithm=fedprox",
        "local.prox_mu=1.0",
    )
    assert plain.model["sha256"] != held.model["sha256"]


def test_lora_with_a_naive_average_warns_that_it_is_not_exact(
    federation: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    assert simulated(federation, "model.adapter.method=lora", "rounds.max=1").status == "completed"
    said = " ".join([caplog.text, *(str(warning.message) for warning in recwarn)])
    assert "not exact" in said or "not the average" in said


def test_a_target_that_is_reached_ends_the_training(federation: Path) -> None:
    told = simulated(federation, "rounds.target=0.0", "rounds.max=5")
    assert (told.stop_reason, told.rounds) == ("target reached", 1)


def test_the_chosen_metric_counts_and_is_measured_beside_the_tasks_own(federation: Path) -> None:
    seen: list[Milestone] = []
    with watched_by(seen.append):
        told = simulated(federation, "evaluation.metric=macro_f1", "rounds.max=1")
    assert [m.metric for m in seen if isinstance(m, Measured)] == ["macro_f1"] * 2
    assert list(told.by_round[1])[:3] == ["loss", "accuracy", "macro_f1"]
    assert told.by_round[1].keys() == {
        name + group for name in ("loss", "accuracy", "macro_f1") for group in ("", *(f"/{s}" for s in SITES))
    }
    assert told.public()["metric"] == "macro_f1"
    low, high = told.eval["macro_f1_interval"]
    assert low <= told.eval["macro_f1"] <= high


def test_a_target_is_one_of_the_metric_that_counts(federation: Path) -> None:
    # As an accuracy 50 is never reached; as a loss it is at once.
    told = simulated(federation, "evaluation.metric=loss", "rounds.target=50", "rounds.max=2")
    assert (told.stop_reason, told.rounds) == ("target reached", 1)
    assert "metric" not in simulated(federation, "evaluation.metric=accuracy", "rounds.max=1").public()


def test_a_metric_that_there_is_not_is_refused_before_anything_begins(federation: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.metric: there is no metric 'f1'"):
        simulated(federation, "evaluation.metric=f1")


def test_too_few_sites_fail_truthfully(federation: Path) -> None:
    with pytest.raises(RoundError, match=r"3 of 3 sites are live, rounds\.min_sites is 4"):
        simulated(federation, "rounds.min_sites=4", "rounds.join=5s")


def test_a_cohort_takes_part_of_the_sites(federation: Path) -> None:
    told = simulated(federation, "rounds.cohort=0.5", "rounds.max=1")
    assert sum(site["rounds"] for site in told.sites.values()) == 2


def test_a_site_whose_records_do_not_fit_fails_alone_and_tells_nothing_of_them(
    federation: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load(federation.read_text())
    lines = Path(raw["simulation"]["source"]).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if record["silo"] == "west":
            record["label"] = "HIV positive"
    source = tmp_path / "corpus.jsonl"
    source.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    told = simulated(federation, f"simulation.source={source}", "rounds.max=1")
    assert {name: site["rounds"] for name, site in told.sites.items()} == {"east": 1, "north": 1, "west": 0}


def test_an_update_that_is_written_over_after_the_audit_counts_as_it_was_audited(
    federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = simulated(federation, "rounds.max=1")

    def overwrite(training: Training, audited: Audited) -> None:
        for counted in audited.counted:
            training.mailbox.store.put(counted.payload.key, b"something else")

    around(monkeypatch, DP_AUDIT, after=overwrite)
    assert simulated(federation, "rounds.max=1").model == undisturbed.model
