from pathlib import Path

import pytest

from fedllm.config import load_federation
from fedllm.privacy.accounting import epsilon
from fedllm.privacy.configured import resolve

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
MNIST_DP = Path(__file__).parents[1] / "examples" / "mnist_dp.yaml"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_federation_that_can_be_simulated(path: Path) -> None:
    config = load_federation(path)
    assert config.simulation is not None
    assert len(config.simulation.names) >= config.rounds.min_sites


@pytest.mark.parametrize("budget", [1, 3])
def test_the_private_mnist_example_keeps_to_its_budget(budget: int) -> None:
    config = load_federation(MNIST_DP, [f"privacy.epsilon={budget}"])
    spent = epsilon([resolve(config)], config.privacy.delta)
    assert 0.99 * budget < spent <= budget
    # The public denominator is what sites of 20,000 draw on average.
    assert config.local.batch_size == config.privacy.sampling_rate * 20_000  # type: ignore[operator]
