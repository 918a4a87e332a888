"""A wrong file or a changed name is told with the federation that has the sites."""

from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.federations import other_federations
from fedllm.coordinator.members import add_site
from fedllm.coordinator.revoke import revoke_site
from fedllm.errors import ConfigError
from fedllm.preflight import preflight
from fedllm.secure.identity import create_identity
from tests.coordinator.played import PlayedSite


def renamed(config: FederationConfig) -> FederationConfig:
    return config.model_copy(update={"name": "renamed"})


def refusal(config: FederationConfig) -> str:
    with pytest.raises(ConfigError) as refused:
        preflight(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_changed_name_is_told_with_the_federation_that_has_the_sites(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    assert sites
    told = refusal(renamed(config))
    assert told.startswith("the roster of renamed is empty")
    assert "other federations are played (amazon, movies, nyt)" in told
    assert "was the name in this one changed?" in told


def test_a_site_that_is_revoked_by_the_wrong_file_is_told_where_it_is(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    assert sites
    with pytest.raises(
        ConfigError, match=r"nyt is not in the roster of renamed.*played \(amazon, movies, nyt\)"
    ):
        revoke_site(renamed(config), "nyt")
    with pytest.raises(ConfigError) as refused:
        revoke_site(renamed(config), "unknown")
    assert "played" not in str(refused.value)


def test_a_coordinator_of_one_federation_is_asked_nothing(config: FederationConfig, tmp_path: Path) -> None:
    add_site(config, create_identity(tmp_path / "one", "one").public)
    assert other_federations(config.name) == ""
