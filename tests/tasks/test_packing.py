"""Texts in one row: the same losses and gradients as texts alone, or the learner pads."""

from typing import Any

import pytest
import torch
import transformers

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.models.adapter import AdaptedModel, attach
from fedllm.models.base import Tokenizer, load_base, resolve_base
from fedllm.tasks.examples import Example
from fedllm.tasks.load import causal_learner
from fedllm.tasks.packing import answer_logits, stay_apart

TASK = TaskConfig(labels={"positive": " positive", "negative": " negative"}, max_length=64)
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
EXAMPLES = [
    Example((5, 6, 7), (8, 9, 10)),
    Example((11,), (12,)),
    Example((13,), (14, 15)),
    Example(tuple(range(20, 40)), (3, 2)),
]


@pytest.fixture
def adapted() -> tuple[AdaptedModel, Tokenizer]:
    base, tokenizer = load_base(resolve_base("tiny"))
    model = attach(base, AdapterConfig(), 7)
    model.write(torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1)))
    return model, tokenizer


def model_of(name: str, **more: Any) -> Any:  # noqa: ANN401 - transformers' own
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    model: Any = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # else nearly nothing comes of what a text sees
        parameter.data.normal_(std=0.3)
    return model


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Llama", {}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 8}),
        ("Mistral", {"sliding_window": 4}),
        ("Gemma3Text", {"head_dim": 8, "sliding_window": 4}),
        ("Phi3", {}),
        ("SmolLM3", {}),
        ("GPT2", {"n_inner": 48}),
    ],
)
def test_in_a_row_each_text_has_the_logits_that_it_has_alone(name: str, more: dict[str, Any]) -> None:
    model = model_of(name, **more)
    assert stay_apart(model)
    with torch.inference_mode():
        for example, found in zip(EXAMPLES, answer_logits(model, EXAMPLES), strict=True):
            whole = model(input_ids=torch.tensor([(*example.prompt, *example.answer)])).logits[0]
            wanted = whole[len(example.prompt) - 1 : -1]
            assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


def test_a_model_whose_memory_goes_from_text_to_text_is_found_out() -> None:
    model = model_of("Lfm2", layer_types=["conv", "full_attention"])
    assert not stay_apart(model)


def in_blocks(length: int) -> torch.Tensor:
    """A mask for texts of three tokens; (1, 1, length, length)."""
    return torch.block_diag(*[torch.ones(3, 3)] * (length // 3)).tril()[None, None].bool()


class _Broken:
    """A model that is asked as it should be, and does something else."""

    def __init__(self, model: Any, **instead: Any) -> None:  # noqa: ANN401 - transformers' own
        self._model, self._instead = model, instead
        self.parameters = model.parameters

    def __call__(self, **asked: Any) -> Any:  # noqa: ANN401 - as the original
        length = asked["input_ids"].shape[1]
        return self._model(**asked | {name: value(length) for name, value in self._instead.items()})


def test_a_model_that_lets_texts_see_each_other_or_counts_positions_on_is_found_out() -> None:
    model: Any = model_of("Llama")
    learned: Any = model_of("GPT2", n_inner=48)
    assert stay_apart(_Broken(model))
    assert not stay_apart(_Broken(model, attention_mask=lambda length: torch.ones(1, length)))
    assert stay_apart(_Broken(learned, attention_mask=in_blocks))
    assert not stay_apart(
        _Broken(learned, attention_mask=in_blocks, position_ids=lambda length: torch.arange(length)[None])
    )


def test_packed_or_padded_losses_gradients_and_judgements_are_the_same(
    adapted: tuple[AdaptedModel, Tokenizer],
) -> None:
    packed, padded = (causal_learner(*adapted, TASK) for _ in range(2))
    padded.__dict__["_packs"] = False
    assert packed._packs
    records = [{"text": "ab" * n, "label": label} for n, label in enumerate((*TASK.labels, *TASK.labels))]
    examples = packed.encode(records)
    seen = []
    for learner in (packed, padded):
        losses = learner.losses(examples)
        gradients = torch.autograd.grad(losses.sum(), learner.shared.trainable)
        seen.append((losses, torch.cat([one.flatten() for one in gradients]), learner.judge(examples)))
    (losses, gradient, judged), (losses_padded, gradient_padded, judged_padded) = seen
    assert torch.allclose(losses, losses_padded, rtol=1e-5)
    assert torch.allclose(gradient, gradient_padded, atol=1e-5 * float(gradient_padded.abs().max()))
    assert [one.loss for one in judged] == pytest.approx([one.loss for one in judged_padded], rel=1e-5)
    assert [one[1:] for one in judged] == [one[1:] for one in judged_padded]
    assert [one.expected for one in judged] == [record["label"] for record in records]


def test_a_learner_that_cannot_pack_pads_texts_of_like_lengths(
    adapted: tuple[AdaptedModel, Tokenizer],
) -> None:
    learner = causal_learner(*adapted, TASK)
    assert learner.split(EXAMPLES) == [[0, 1, 2, 3]]
    learner.__dict__["_packs"] = False
    assert learner.split(EXAMPLES) == [[1, 2, 0, 3]]
