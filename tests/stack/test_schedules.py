"""Which schedules fit which federation."""

from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.stack.schedules import why_not

FLOWS = ("federated-training", "privacy-audit", "site-watch", "review-tags")
PRIVACY = {"unit": "record", "epsilon": 2, "delta": 1e-5, "clip": 0.5, "sampling_rate": 0.1}


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "public.jsonl"
    path.touch()
    return path


def config(public: Path, **more: object) -> FederationConfig:
    told = {
        "name": "fed",
        "task": {"kind": "text", "fields": {"text": "text"}},
        "evaluation": {"public": str(public)},
        "rounds": {"min_sites": 2},
    }
    return FederationConfig.model_validate(told | more)


def fitting(federation: FederationConfig, real: int) -> set[str]:
    return {flow for flow in FLOWS if why_not(flow, federation, real) is None}


def test_before_enough_sites_have_joined_nothing_is_trained_at_night(public: Path) -> None:
    assert fitting(config(public), 0) == {"review-tags"}
    assert fitting(config(public), 1) == {"review-tags", "site-watch"}
    assert fitting(config(public), 2) == {"review-tags", "site-watch", "federated-training"}
    assert "1 sites are in the roster and rounds.min_sites is 2" in str(
        why_not("federated-training", config(public), 1)
    )


def test_ledgers_are_looked_at_where_there_are_some(public: Path) -> None:
    assert "privacy-audit" in fitting(config(public, privacy=PRIVACY), 2)


def test_without_the_public_records_no_night_would_train(tmp_path: Path) -> None:
    absent = tmp_path / "absent.jsonl"
    assert str(absent) in str(why_not("federated-training", config(absent), 2))


def test_simulated_sites_train_at_night_and_are_not_watched(public: Path) -> None:
    simulated = config(public, simulation={"sites": 2})
    assert fitting(simulated, 0) == {"review-tags", "privacy-audit", "federated-training"}
    assert "1 sites are simulated" in str(
        why_not("federated-training", config(public, simulation={"sites": 1}), 0)
    )
