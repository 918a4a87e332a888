import math

import pytest
import torch

from fedllm.auditing.noise import Trained
from fedllm.auditing.updates import audit_update, norm_bound
from fedllm.config import LocalConfig
from fedllm.models.shared import encode_flat


def audited(update: torch.Tensor, *, size: int = 100, local: LocalConfig | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return audit_update(encode_flat(update), trained(size, local or LocalConfig()))


def trained(size: int, local: LocalConfig) -> Trained:
    return Trained(site="movies", local=local, steps=10, size=size, model_norm=1.0)


def test_an_honest_update_passes_and_its_privacy_is_not_called_observed() -> None:
    done = audited(torch.full((100,), 1e-3))
    assert done.accepted
    assert done.privacy == "no DP configured"
    assert done.checks["accounting"] == "not observable"
    assert done.norm == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("update", "size", "failed"),
    [
        (torch.zeros(100), 100, "norm"),
        (torch.full((100,), 1.0), 100, "norm"),
        (torch.full((99,), 1e-3), 100, "schema"),
        (torch.full((100,), math.nan), 100, "schema"),
        (torch.full((100,), math.inf), 100, "schema"),
    ],
)
def test_what_honest_training_cannot_make_is_refused_with_a_reason(
    update: torch.Tensor, size: int, failed: str
) -> None:
    from safetensors.torch import save

    payload = save({"adapter": update})
    done = audit_update(payload, trained(size, LocalConfig()))
    assert not done.accepted
    assert done.checks[failed] == "fail"
    assert done.reason


def test_the_bound_holds_for_adamw_on_the_steepest_gradients() -> None:
    # A gradient that appears once after silence moves AdamW farthest: Kingma and Ba 2015, section 2.1.
    local = LocalConfig(lr=0.1)
    weights = torch.nn.Parameter(torch.zeros(7))
    optimizer = torch.optim.AdamW([weights], lr=local.lr, weight_decay=0.0)
    steps = 500
    for step in range(steps):
        weights.grad = torch.ones(7) if step == steps - 1 else torch.zeros(7)
        before = weights.detach().clone()
        optimizer.step()
    one_step = float((weights.detach() - before).norm())
    assert one_step <= norm_bound(local, 1, 7, 0.0)
    assert one_step > 0.3 * norm_bound(local, 1, 7, 0.0)  # the bound is near, not merely above


def test_the_bound_for_sgd_is_the_sum_of_clipped_steps() -> None:
    local = LocalConfig(optimizer="sgd", lr=0.5, max_grad_norm=2.0, momentum=0.5)
    assert norm_bound(local, 4, 1000, 0.0) == pytest.approx(4 * 0.5 * 2.0 / 0.5 * 1.01)
