import json
import struct

import pytest
import torch
from safetensors.torch import save

from fedllm.aggregation import decode_state, encode_state
from fedllm.errors import RefusedError

M = torch.tensor([1.0, -2.0])
V = torch.tensor([0.5, 0.25])


def test_a_state_comes_back_as_it_was() -> None:
    read = decode_state(encode_state({"m": M, "v": V}), 2)
    assert sorted(read) == ["m", "v"]
    assert torch.equal(read["m"], M)
    assert torch.equal(read["v"], V)


def test_the_same_state_gives_the_same_bytes_in_whatever_order_it_was_built() -> None:
    assert encode_state({"m": M, "v": V}) == encode_state({"v": V.clone(), "m": M.clone()})


def test_an_empty_state_has_bytes_too() -> None:
    assert decode_state(encode_state({}), 2) == {}


def lying_header() -> bytes:
    header = json.dumps({"m": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4000]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04\x95", "not a safetensors file"),
        (lying_header(), "not a safetensors file"),
        (encode_state({"m": M})[:-1], "not a safetensors file"),
        (encode_state({"m": M}) + b"\0", "not a safetensors file"),
        (save({"w": M}), "no tensor 'w'"),
        (save({"m": M.double()}), "expected flat float32"),
        (save({"m": M.reshape(1, 2)}), "expected flat float32"),
        (save({"m": torch.ones(3)}), "3 values, the model 2"),
        (save({"m": torch.tensor([1.0, float("nan")])}), "not finite"),
        (save({"m": M, "v": -V}), "v is negative"),
        (save({"m": M}, metadata={"note": "x"}), "canonical encoding"),
    ],
)
def test_anything_else_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        decode_state(data, 2)


def test_a_state_that_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(RefusedError, match="no tensor 'w'"):
        encode_state({"w": M})
