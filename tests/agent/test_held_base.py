import pytest

from fedllm.agent.held_base import held_base
from fedllm.config import AdapterConfig
from fedllm.errors import ModelError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base
from fedllm.models.vision import load_vision


@pytest.mark.parametrize("method", ["ffa-lora", "lora"])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",), ("q_proj", "q_proj", "gate_proj")])
@pytest.mark.parametrize("layers", ["all", (0,)])
def test_an_adapters_size_is_told_without_loading_a_weight(
    method: str, targets: tuple[str, ...], layers: object
) -> None:
    adapter = AdapterConfig.model_validate(
        {"method": method, "rank": 3, "targets": targets, "layers": layers}
    )
    base = held_base("tiny")
    real = attach(load_base(base.folder)[0], adapter, 7).layout.size
    assert base.adapter_size(adapter) == real


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"targets": ("q_proj", "../../etc/passwd")}, r"no module of the base model is named '\.\./\.\./etc"),
        ({"targets": ("q_proj.__class__",)}, "no module of the base model is named"),
        ({"targets": (".*",)}, "no module of the base model is named"),
        ({"layers": (0, 99)}, "has no layer 99"),
    ],
)
def test_targets_and_layers_that_are_not_there_are_named(asked: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        held_base("tiny").adapter_size(AdapterConfig.model_validate(asked))


def test_what_the_files_do_not_tell_is_not_judged() -> None:
    assert held_base("tiny").adapter_size(AdapterConfig(targets=("lm_head",))) is None


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-scattering"])
def test_a_model_that_is_shared_whole_counts_all_its_numbers(name: str) -> None:
    base = held_base(name)
    assert base.adapter_size(AdapterConfig(method="full")) == load_vision(base.folder).layout.size


def test_a_language_model_is_not_shared_whole_and_an_image_model_takes_no_adapter() -> None:
    with pytest.raises(ModelError, match="full is for image models"):
        held_base("tiny").adapter_size(AdapterConfig(method="full"))
    with pytest.raises(ModelError, match="no module of the base model is named 'q_proj'"):
        held_base("mnist-cnn").adapter_size(AdapterConfig())
