from pathlib import Path

import pytest
import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.errors import ModelError
from fedllm.models.base import load_base, resolve_base
from fedllm.models.folder import fingerprint, is_vision
from fedllm.models.vision import load_vision, make_vision
from fedllm.tasks.load import load_learner

DIGITS = TaskConfig(
    kind="image",
    fields={"image": "image", "label": "label"},
    labels={str(i): str(i) for i in range(10)},
    template="",
)
FULL = AdapterConfig(method="full")


def test_the_cnn_is_the_papers_size() -> None:
    # McMahan et al. 2017: "1,663,370 total parameters".
    assert load_vision(resolve_base("mnist-cnn")).layout.size == 1_663_370


def test_the_scattering_model_is_one_matrix_from_zero() -> None:
    model = load_vision(resolve_base("mnist-scattering"))
    assert model.layout.shapes == ((10, 3969), (10,))  # 81 channels of 7 x 7
    assert not model.read().any()


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-scattering"])
def test_a_fresh_model_is_the_same_bytes_wherever_it_is_made(name: str, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever a process did before
    make_vision(tmp_path / "other", name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "other" / file).read_bytes() == (resolve_base(name) / file).read_bytes()
    assert fingerprint(tmp_path / "other") == fingerprint(resolve_base(name))


def test_making_a_model_leaves_the_processs_chance_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    due = torch.rand(3)
    torch.manual_seed(1)
    make_vision(tmp_path, "mnist-cnn")
    assert torch.equal(torch.rand(3), due)


@pytest.mark.parametrize("name", ["mnist-cnn", "mnist-scattering"])
def test_what_is_written_saved_and_loaded_is_what_is_read(name: str, tmp_path: Path) -> None:
    model = load_vision(resolve_base(name))
    flat = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(1))
    model.write(flat)
    assert torch.equal(model.read(), flat)
    model.save(tmp_path, base=name)
    again = load_vision(tmp_path)
    assert torch.equal(again.read(), flat)
    assert again.layout == model.layout
    assert again.frozen_sha256 == model.frozen_sha256
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(ModelError, match="numbers"):
        model.write(flat[:-1])


def test_every_weight_is_trainable_and_in_the_layouts_order() -> None:
    model = load_vision(resolve_base("mnist-cnn"))
    named = dict(model.model.named_parameters())
    assert model.layout.names == tuple(named)
    assert [id(part) for part in model.trainable] == [id(named[name]) for name in model.layout.names]
    assert all(part.requires_grad for part in model.trainable)


def test_models_that_read_other_inputs_are_told_apart() -> None:
    found = {load_vision(resolve_base(name)).frozen_sha256 for name in ("mnist-cnn", "mnist-scattering")}
    assert len(found) == 2


def test_a_folder_that_is_no_image_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an image model"):
        load_vision(resolve_base("tiny"))
    make_vision(tmp_path, "mnist-cnn")
    make_vision(tmp_path / "other", "mnist-scattering")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="not an image model"):
        load_vision(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="not an image model"):
        load_vision(tmp_path)


def test_an_image_model_is_no_language_model_and_the_other_way_round() -> None:
    assert is_vision(resolve_base("mnist-cnn"))
    assert not is_vision(resolve_base("tiny"))
    with pytest.raises(ModelError, match="not a causal language model"):
        load_base(resolve_base("mnist-cnn"))
    with pytest.raises(ModelError, match="do not go together"):
        load_learner(resolve_base("tiny"), FULL, 7, DIGITS)
    text = TaskConfig(labels={"a": " a", "b": " b"})
    with pytest.raises(ModelError, match="do not go together"):
        load_learner(resolve_base("mnist-cnn"), AdapterConfig(), 7, text)
