"""Server optimisers: apply the mean update to the global model.

With x the model, d the mean update (x after local training minus x before), lr the server's learning rate:

| strategy | step | source |
|---|---|---|
| fedavg | x + lr d | McMahan et al. 2017; lr 1 is plain averaging |
| fedavgm | m = momentum m + d;  x + lr m | Hsu et al. 2019, arXiv 1909.06335, section 4.3 |
| fedadagrad | v = v + d^2 | Reddi et al. 2021, arXiv 2003.00295, Algorithm 2 |
| fedyogi | v = v - (1 - beta2) d^2 sign(v - d^2) | the same |
| fedadam | v = beta2 v + (1 - beta2) d^2 | the same |

The last three share m = beta1 m + (1 - beta1) d and x + lr m / (sqrt(v) + tau). As in Algorithm 2 there
is no bias correction; m starts at 0 and v at tau^2, the least that the paper allows. Algorithm 2 applies
beta1 to FedAdagrad too; set `beta1: 0` for the momentum-free variant.
"""

from collections.abc import Callable, Mapping

import torch

from fedllm.config import AggregationConfig
from fedllm.errors import RefusedError

State = dict[str, torch.Tensor]
Step = tuple[torch.Tensor, State]
Strategy = Callable[[AggregationConfig, torch.Tensor, State], Step]

STATE_NAMES: Mapping[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedavgm": ("m",),
    "fedadagrad": ("m", "v"),
    "fedadam": ("m", "v"),
    "fedyogi": ("m", "v"),
}


def apply_strategy(
    config: AggregationConfig, model: torch.Tensor, mean_update: torch.Tensor, state: State
) -> Step:
    """Take one server step.

    The arithmetic is in float64 with one rounding per operation, and the kept state is rounded to float32: a
    run that resumes from a stored state gives the same bits as one without interruption.

    Args:
        config: strategy and its constants.
        model: the global model before the round, float32, shape (n,).
        mean_update: the combined update of the round, float32, shape (n,).
        state: from the previous round; empty in the first.

    Returns:
        The next model, float32, shape (n,), and the state to store with the round. Arguments are unchanged.

    Raises:
        RefusedError: shapes or the state's names do not fit the strategy, or the result is not finite.
    """
    if model.shape != mean_update.shape or model.ndim != 1:
        raise RefusedError(
            f"the mean update has shape {tuple(mean_update.shape)}, the model {tuple(model.shape)}"
        )
    before = _start(config, model) if not state else _check(config, model, state)
    delta = mean_update.to(torch.float64)
    change, after = _STRATEGIES[config.strategy](config, delta, before)
    stepped = (model.to(torch.float64) + change * config.lr).to(torch.float32)
    kept = {name: tensor.to(torch.float32) for name, tensor in after.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (stepped, *kept.values())):
        raise RefusedError(
            f"{config.strategy} gave numbers that are not finite: lower aggregation.lr (now {config.lr:g})"
        )
    return stepped, kept


def _start(config: AggregationConfig, model: torch.Tensor) -> State:
    first = {"m": 0.0, "v": config.tau**2}
    return {
        name: torch.full(model.shape, first[name], dtype=torch.float64)
        for name in STATE_NAMES[config.strategy]
    }


def _check(config: AggregationConfig, model: torch.Tensor, state: State) -> State:
    wanted = STATE_NAMES[config.strategy]
    if sorted(state) != sorted(wanted):
        raise RefusedError(
            f"{config.strategy} keeps {list(wanted)}, the stored state holds {sorted(state)}: "
            "a run's aggregation.strategy cannot change during the run"
        )
    for name, tensor in state.items():
        if tensor.shape != model.shape:
            raise RefusedError(f"the stored {name} has {tensor.numel()} values, the model {model.numel()}")
    return {name: state[name].to(torch.float64) for name in wanted}


def _average(_config: AggregationConfig, delta: torch.Tensor, _state: State) -> Step:
    return delta, {}


def _momentum(config: AggregationConfig, delta: torch.Tensor, state: State) -> Step:
    moved = state["m"] * config.momentum + delta
    return moved, {"m": moved}


def _adaptive(second: Callable[[AggregationConfig, torch.Tensor, torch.Tensor], torch.Tensor]) -> Strategy:
    def step(config: AggregationConfig, delta: torch.Tensor, state: State) -> Step:
        first = state["m"] * config.beta1 + delta * (1 - config.beta1)
        v = second(config, state["v"], delta * delta)
        return first / (v.sqrt() + config.tau), {"m": first, "v": v}

    return step


def _adagrad(_config: AggregationConfig, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
    return v + squared


def _yogi(config: AggregationConfig, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
    return v - squared * (1 - config.beta2) * torch.sign(v - squared)


def _adam(config: AggregationConfig, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
    return v * config.beta2 + squared * (1 - config.beta2)


_STRATEGIES: dict[str, Strategy] = {
    "fedavg": _average,
    "fedavgm": _momentum,
    "fedadagrad": _adaptive(_adagrad),
    "fedadam": _adaptive(_adam),
    "fedyogi": _adaptive(_yogi),
}
