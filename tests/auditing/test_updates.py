import math

import pytest
import torch

from fedllm.auditing.noise import Trained
from fedllm.auditing.updates import audit_update, norm_bound
from fedllm.config import LocalConfig
from fedllm.models.codec import codec_named, encode_flat


def audited(update: torch.Tensor, *, size: int = 100, local: LocalConfig | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201
    return audit_update(encode_flat(update), trained(size, local or LocalConfig()))


def trained(size: int, local: LocalConfig, codec: str = "fp32") -> Trained:
    return Trained(site="movies", local=local, steps=10, size=size, model_norm=1.0, codec=codec)


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


def audited_in_fp16(update: torch.Tensor, residual: torch.Tensor | None, local: LocalConfig, steps: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Whether fp16 carries an update over the bound of fp32, and what the audit makes of it."""
    size, codec = len(update), codec_named("fp16")
    payload, _ = codec.encode(update, residual)
    over = float(codec.decode(payload, size).double().norm()) > norm_bound(local, steps, size, 0.0)
    return over, audit_update(payload, Trained("movies", local, steps, size, 0.0, codec="fp16"))


def test_rounding_up_blames_no_honest_site() -> None:
    # 3.17e-8 a number is the most that ten steps make; the next half is 5.96e-8.
    local = LocalConfig(lr=1e-9)
    most = norm_bound(local, 10, 100, 0.0) / 1.01 / 10
    over, verdict = audited_in_fp16(torch.full((100,), most), None, local, 10)
    assert over
    assert verdict.accepted
    _, verdict = audited_in_fp16(torch.full((100,), 4 * most), None, local, 10)
    assert verdict.checks["norm"] == "fail"


def test_the_residual_of_a_longer_round_blames_no_honest_site() -> None:
    # A number of 3 + 2^-10 loses 2^-10 in fp16; one step afterwards moves a number by 0.00317 at most.
    local = LocalConfig(lr=1e-3, steps=1000)
    _, residual = codec_named("fp16").encode(torch.full((100,), 3 + 2.0**-10), None)
    assert residual is not None
    assert float(residual.abs().min()) == 2.0**-10
    most = norm_bound(local, 1, 100, 0.0) / 1.01 / 10
    over, verdict = audited_in_fp16(torch.full((100,), most), residual.abs(), local, 1)
    assert over
    assert verdict.accepted


def test_bytes_of_another_codec_than_the_plans_are_refused() -> None:
    update = torch.full((100,), 1e-3)
    for codec, other in (("fp32", "fp16"), ("fp16", "fp32")):
        own = trained(100, LocalConfig(), codec)
        assert audit_update(codec_named(codec).encode(update, None)[0], own).accepted
        verdict = audit_update(codec_named(other).encode(update, None)[0], own)
        assert verdict.checks["schema"] == "fail"
