"""Whom a training may ask, looked at before anything starts."""

from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.errors import ConfigError
from fedllm.preflight import preflight


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationConfig:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))  # other tests have a harbours too
    (tmp_path / "public.jsonl").write_text('{"text": "one"}\n')
    return FederationConfig.model_validate(
        {
            "name": "harbours",
            "model": {"base": "tiny"},
            "task": {"kind": "text", "fields": {"text": "text"}},
            "evaluation": {"public": str(tmp_path / "public.jsonl")},
            "simulation": {"source": str(tmp_path / "public.jsonl"), "sites": ["east", "north", "west"]},
        }
    )


def test_sites_that_are_known_may_be_asked(config: FederationConfig) -> None:
    preflight(config)
    preflight(config, ("east", "west"))


@pytest.mark.parametrize(
    ("sites", "line"),
    [
        (("nobody",), "not in the roster of harbours: nobody; it has east, north, west"),
        (("east", "nobody"), "not in the roster of harbours: nobody; it has"),
        (("east",), "rounds.min_sites is 2 and 1 site is to be asked: name more of them, or lower"),
    ],
)
def test_sites_that_cannot_play_a_round_are_refused(
    config: FederationConfig, sites: tuple[str, ...], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        preflight(config, sites)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_metric_that_the_task_cannot_compute_is_refused(config: FederationConfig) -> None:
    evaluation = config.evaluation.model_copy(update={"metric": "macro_f1"})
    with pytest.raises(ConfigError, match=r"macro_f1 needs labels, and task\.kind text has none"):
        preflight(config.model_copy(update={"evaluation": evaluation}))


def test_sites_elsewhere_are_looked_up_in_the_roster(config: FederationConfig) -> None:
    with pytest.raises(ConfigError, match="the roster of harbours is empty"):
        preflight(config, external=True)


def test_a_codec_that_is_not_known_is_refused_with_those_that_are(config: FederationConfig) -> None:
    preflight(config.model_copy(update={"codec": "fp16"}))
    with pytest.raises(ConfigError, match="codec 'fp61' is not known: use fp32 or fp16"):
        preflight(config.model_copy(update={"codec": "fp61"}))
