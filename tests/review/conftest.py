"""Four versions of one federation that a reviewer decides about."""

from collections.abc import Callable

import pytest

from fedllm.review.register import Register
from fedllm.tracking import RoundRelease
from tests.review.reviewed import Heard, publish, reset


@pytest.fixture(scope="session")
def four_versions(
    local_mlflow: str, tmp_path_factory: pytest.TempPathFactory, make_release: Callable[..., RoundRelease]
) -> Register:
    """Four versions: 30, 31, 32 and 12 of 40 right."""
    folder = tmp_path_factory.mktemp("artifacts")
    return publish(local_mlflow, make_release, "reviewed", 30, 31, 32, 12, folder=folder)


@pytest.fixture
def register(four_versions: Register) -> Register:
    """The four versions, none of them decided about."""
    reset(four_versions)
    return four_versions


@pytest.fixture
def heard() -> Heard:
    """What is told of decisions."""
    return Heard()
