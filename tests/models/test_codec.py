"""Updates as bytes: what each codec writes, what it loses and keeps, and which payloads it refuses."""

import json
import math
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from fedllm.errors import ConfigError, RefusedError, TrainingError
from fedllm.models.codec import CODECS, codec_named, decode_flat, encode_flat

BOTH = pytest.mark.parametrize("name", sorted(CODECS))
WRITTEN = {"fp32": ("F32", "f", 4), "fp16": ("F16", "e", 2)}  # in safetensors, in struct, bytes


def test_a_flat_vector_survives_the_wire_and_stock_safetensors_reads_it() -> None:
    flat = torch.randn(1000)
    data = encode_flat(flat)
    assert torch.equal(decode_flat(data, 1000), flat)
    assert torch.equal(load(data)["adapter"], flat)
    assert encode_flat(flat) == data


@BOTH
def test_what_a_codec_writes_is_what_stock_safetensors_and_its_own_decoder_read(name: str) -> None:
    codec, update = codec_named(name), torch.randn(1000)
    data, residual = codec.encode(update, None)
    decoded = codec.decode(data, 1000)
    assert decoded.dtype == torch.float32
    assert torch.equal(load(data)["adapter"].float(), decoded)
    assert codec.encode(update, None)[0] == data
    lost = torch.zeros(1000) if residual is None else residual
    assert torch.equal(decoded + lost, update)


@BOTH
def test_the_bytes_stay_within_what_the_codec_says(name: str) -> None:
    for size in (1, 7, 1000):
        data, _ = codec_named(name).encode(torch.ones(size), None)
        assert codec_named(name).most_bytes(size) == WRITTEN[name][2] * size
        assert codec_named(name).most_bytes(size) < len(data) < codec_named(name).most_bytes(size) + 1024


@settings(deadline=None)
@given(st.lists(st.floats(-65519, 65519, width=32), min_size=1, max_size=20))
def test_fp16_rounds_to_the_nearest_half_and_ties_to_even_as_python_does(values: list[float]) -> None:
    data, residual = codec_named("fp16").encode(torch.tensor(values), None)
    halves = [struct.unpack("<e", struct.pack("<e", value))[0] for value in values]
    assert codec_named("fp16").decode(data, len(values)).tolist() == halves
    assert residual is not None
    assert residual.tolist() == [value - half for value, half in zip(values, halves, strict=True)]


def test_fp16_to_the_byte() -> None:
    header = b'{"adapter":{"dtype":"F16","shape":[5],"data_offsets":[0,10]}}   '
    # 1, -2, the largest, the smallest subnormal, and 1/3 as 0x3555: IEEE 754-2019, table 3.5.
    body = bytes.fromhex("003c 00c0 ff7b 0100 5535")
    data, _ = codec_named("fp16").encode(torch.tensor([1.0, -2.0, 65504.0, 2.0**-24, 1 / 3]), None)
    assert data == struct.pack("<Q", 64) + header + body


@pytest.mark.parametrize("value", [65520.0, -65520.0, 3e38, math.inf, math.nan])
def test_fp16_refuses_what_it_cannot_write_in_one_line(value: float) -> None:
    with pytest.raises(TrainingError, match="beyond the 65504 of fp16") as refused:
        codec_named("fp16").encode(torch.tensor([1.0, value]), None)
    assert "\n" not in str(refused.value)


def test_what_rounding_takes_away_goes_into_the_next_update_so_that_no_sum_drifts() -> None:
    codec, size, rounds = codec_named("fp16"), 64, 400
    update = torch.full((size,), 1.0 + 2.0**-13)  # a half holds 1 here, and the rest is lost each time
    residual, arrived = None, torch.zeros(size, dtype=torch.float64)
    for _ in range(rounds):
        data, residual = codec.encode(update, residual)
        arrived += codec.decode(data, size).double()
    meant = rounds * update.double()
    assert residual is not None
    assert float((arrived + residual.double() - meant).abs().max()) < 1e-9
    assert float((arrived - meant).abs().max()) <= 2.0**-11  # without feedback: 400 times 2^-13


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-4, 4, width=32), st.integers(-30, 12)), min_size=3, max_size=3),
    st.integers(1, 6),
)
def test_no_residual_exceeds_its_bound(parts: list[tuple[float, int]], rounds: int) -> None:
    codec = codec_named("fp16")
    update = torch.tensor([value * 2.0**power for value, power in parts])
    norm, residual = float(update.double().norm()), None
    for _ in range(rounds):
        data, residual = codec.encode(update, residual)
        assert residual is not None
        left, arrived = float(residual.double().norm()), float(codec.decode(data, 3).double().norm())
        assert left <= codec.most_residual(norm, 3) * (1 + 1e-6)
        assert left <= codec.most_residual(arrived, 3) * (1 + 1e-6)


def test_an_exact_codec_leaves_nothing() -> None:
    assert codec_named("fp32").encode(torch.ones(3), None)[1] is None
    assert codec_named("fp32").most_residual(1e9, 10**9) == 0


def test_a_codec_that_is_not_known_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="codec 'fp61' is not known: use fp32 or fp16"):
        codec_named("fp61")


@pytest.mark.servers
def test_the_registry_is_there_without_torch() -> None:
    size = "from fedllm.models.codec import codec_named; codec_named('fp16').most_bytes(9)"
    code = f"import sys; {size}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _payload(header: dict[str, object], body: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _lies(name: str) -> dict[str, bytes]:
    """Payloads that are not four finite numbers in this codec's one encoding."""
    kind, letter, width = WRITTEN[name]
    body = bytes(4 * width)
    good = {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * width]}
    other = next(codec for codec in CODECS if codec != name)
    as_long = torch.ones(4 * width // WRITTEN[other][2])
    more = good | {"shape": [0], "data_offsets": [4 * width, 4 * width]}
    return {
        "nothing": b"",
        "no header": b"\x00" * 8,
        "a header without end": struct.pack("<Q", 2**62) + b"{}",
        "one byte more": _payload({"adapter": good}, body + b"x"),
        "one number less": _payload({"adapter": good}, body[:-width]),
        "padded with zeros": _payload({"adapter": good}, body + bytes(8)),
        "a header padded further": _padded(_payload({"adapter": good}, body)),
        "whole numbers": _payload({"adapter": good | {"dtype": "I32"}}, body),
        "another shape": _payload({"adapter": good | {"shape": [2, 2]}}, body),
        "a shape without end": _payload(
            {"adapter": good | {"shape": [2**60], "data_offsets": [0, 2**62]}}, body
        ),
        "another name": _payload({"updates": good}, body),
        "a second tensor": _payload({"adapter": good, "more": more}, body),
        "not a number": _payload({"adapter": good}, struct.pack(f"<4{letter}", 0, 0, 0, math.nan)),
        "infinite": _payload({"adapter": good}, struct.pack(f"<4{letter}", 0, 0, 0, -math.inf)),
        "another codec": codec_named(other).encode(torch.ones(4), None)[0],
        "another codec's length": codec_named(other).encode(as_long, None)[0],
        "another codec's body": _payload({"adapter": good}, bytes(4 * WRITTEN[other][2])),
    }


def _padded(data: bytes) -> bytes:
    """The same file with eight spaces more behind its header, as other safetensors writers may have it."""
    length = struct.unpack("<Q", data[:8])[0]
    return struct.pack("<Q", length + 8) + data[8 : 8 + length] + b" " * 8 + data[8 + length :]


@pytest.mark.parametrize(("name", "lie"), [(name, lie) for name in CODECS for lie in _lies(name)])
def test_a_payload_that_lies_is_refused(name: str, lie: str) -> None:
    with pytest.raises(RefusedError):
        codec_named(name).decode(_lies(name)[lie], 4)


@BOTH
def test_the_honest_twin_of_those_payloads_is_accepted(name: str) -> None:
    kind, _, width = WRITTEN[name]
    good = {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * width]}
    assert codec_named(name).decode(_payload({"adapter": good}, bytes(4 * width)), 4).tolist() == [0, 0, 0, 0]
