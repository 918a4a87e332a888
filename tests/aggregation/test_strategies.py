"""The expected numbers are computed here in numpy, line by line from the papers."""

import numpy as np
import pytest
import torch

from fedllm.aggregation import apply_strategy, decode_state, encode_state
from fedllm.config import AggregationConfig
from fedllm.errors import RefusedError

X0 = np.array([1.0, -2.0, 0.5])
D1 = np.array([0.1, 0.2, -0.3])
D2 = np.array([-0.05, 0.4, 0.001])
LR, BETA1, BETA2, TAU = 0.1, 0.9, 0.99, 1e-3


def two_rounds(config: AggregationConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model = torch.tensor(X0, dtype=torch.float32)
    state: dict[str, torch.Tensor] = {}
    for delta in (D1, D2):
        model, state = apply_strategy(config, model, torch.tensor(delta, dtype=torch.float32), state)
        state = decode_state(encode_state(state), 3)
    return model, state


def adaptive(v1: np.ndarray, v2: np.ndarray) -> np.ndarray:
    m1 = (1 - BETA1) * D1
    m2 = BETA1 * m1 + (1 - BETA1) * D2
    x1 = X0 + LR * m1 / (np.sqrt(v1) + TAU)
    return np.asarray(x1 + LR * m2 / (np.sqrt(v2) + TAU))


def test_fedavg_adds_the_mean_update() -> None:
    model, state = two_rounds(AggregationConfig())
    np.testing.assert_allclose(model.numpy(), X0 + D1 + D2, rtol=1e-6)
    assert state == {}


def test_fedavgm_follows_hsu() -> None:
    model, _ = two_rounds(AggregationConfig(strategy="fedavgm", lr=0.5, momentum=0.9))
    expected = X0 + 0.5 * D1 + 0.5 * (0.9 * D1 + D2)
    np.testing.assert_allclose(model.numpy(), expected, rtol=1e-6)


def test_fedadagrad_follows_algorithm_2() -> None:
    v1 = TAU**2 + D1**2
    model, state = two_rounds(AggregationConfig(strategy="fedadagrad", lr=LR))
    np.testing.assert_allclose(model.numpy(), adaptive(v1, v1 + D2**2), rtol=1e-6)
    np.testing.assert_allclose(state["v"].numpy(), v1 + D2**2, rtol=1e-6)


def test_fedadam_follows_algorithm_2() -> None:
    v1 = BETA2 * TAU**2 + (1 - BETA2) * D1**2
    v2 = BETA2 * v1 + (1 - BETA2) * D2**2
    model, state = two_rounds(AggregationConfig(strategy="fedadam", lr=LR))
    np.testing.assert_allclose(model.numpy(), adaptive(v1, v2), rtol=1e-6)
    np.testing.assert_allclose(state["m"].numpy(), 0.9 * 0.1 * D1 + 0.1 * D2, rtol=1e-5)


def test_fedyogi_follows_algorithm_2() -> None:
    v0 = np.full(3, TAU**2)
    v1 = v0 - (1 - BETA2) * D1**2 * np.sign(v0 - D1**2)
    v2 = v1 - (1 - BETA2) * D2**2 * np.sign(v1 - D2**2)
    model, _ = two_rounds(AggregationConfig(strategy="fedyogi", lr=LR))
    np.testing.assert_allclose(model.numpy(), adaptive(v1, v2), rtol=1e-6)


def test_the_first_fedadam_step_is_not_bias_corrected() -> None:
    """By hand: d = 1, m = 0.1, v = 0.99e-6 + 0.01, so x moves by 0.1 / (0.10000495 + 0.001)."""
    config = AggregationConfig(strategy="fedadam")
    model, _ = apply_strategy(config, torch.zeros(1), torch.ones(1), {})
    assert model.item() == pytest.approx(0.1 / 0.10100495, rel=1e-6)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_the_arguments_are_left_unchanged(strategy: str) -> None:
    config = AggregationConfig.model_validate({"strategy": strategy})
    model, delta = torch.tensor(X0, dtype=torch.float32), torch.tensor(D1, dtype=torch.float32)
    _, state = apply_strategy(config, model, delta, {})
    kept = {name: tensor.clone() for name, tensor in state.items()}
    apply_strategy(config, model, delta, state)
    np.testing.assert_array_equal(model.numpy(), X0.astype(np.float32))
    np.testing.assert_array_equal(delta.numpy(), D1.astype(np.float32))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_another_strategys_state_is_refused() -> None:
    _, state = apply_strategy(AggregationConfig(strategy="fedavgm"), torch.zeros(2), torch.ones(2), {})
    with pytest.raises(RefusedError, match="cannot change during the run"):
        apply_strategy(AggregationConfig(strategy="fedadam"), torch.zeros(2), torch.ones(2), state)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RefusedError, match="shape"):
        apply_strategy(AggregationConfig(), torch.zeros(2), torch.ones(3), {})
    with pytest.raises(RefusedError, match="stored m has 3"):
        apply_strategy(
            AggregationConfig(strategy="fedavgm"), torch.zeros(2), torch.ones(2), {"m": torch.zeros(3)}
        )


def test_a_model_that_is_no_longer_finite_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"lower aggregation\.lr"):
        apply_strategy(AggregationConfig(lr=1e30), torch.zeros(1), torch.full((1,), 1e30), {})
