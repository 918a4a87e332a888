"""The published test vectors of docs/vectors: `python -m tests.protocol.vectors` writes them anew.

They come from the independent implementation alone, and every random number in them is fixed. The keys are
known to everybody: they sign and open nothing but these vectors.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.protocol import independent as ind
from tests.protocol import independent_age as age
from tests.protocol.vector_envelopes import b64, envelopes
from tests.protocol.vector_keys import NOTE, PARTIES, drawn
from tests.protocol.vector_ledger import ledger
from tests.protocol.vector_private import private

FOLDER = Path(__file__).parents[2] / "docs" / "vectors"


def sealing() -> dict[str, object]:
    """Files that amazon opens, and files that it refuses."""
    texts = [
        ("amazon alone", ["amazon"], b"one flat tensor"),
        ("two recipients", ["amazon", "coordinator"], bytes(range(256))),
        ("empty", ["amazon"], b""),
    ]
    opened = []
    for label, names, text in texts:
        data = _sealed(label, names, text)
        opened.append(
            {
                "label": label,
                "recipients": [PARTIES[name]["recipient"] for name in names],
                "file": b64(data),
                "sealed_sha256": ind.sha256(data),
                "sealed_bytes": len(data),
                "inside": text.hex(),
                "sha256": ind.sha256(text),
                "bytes": len(text),
            }
        )
    good = _sealed("amazon alone", ["amazon"], texts[0][2])
    mac = good.index(b"--- ") + 4
    refused = [
        ("sealed for another", _sealed("for movies", ["movies"], b"one flat tensor")),
        ("the header's MAC was changed", _flipped(good, mac)),
        ("a stanza was added", good.replace(b"--- ", b"-> extra\nAAAA\n--- ")),
        ("the last byte was changed", _flipped(good, len(good) - 1)),
        ("cut by a byte", good[:-1]),
        ("cut after the nonce", good[: good.index(b"\n", mac) + 17]),
        ("a byte was added", good + b"\x00"),
    ]
    return {
        "note": NOTE,
        "identity": PARTIES["amazon"]["age_identity"],
        "opened": opened,
        "refused": [{"why": why, "file": b64(data)} for why, data in refused],
    }


def _sealed(label: str, names: list[str], text: bytes) -> bytes:
    recipients = [age.unbech32(PARTIES[name]["recipient"], "age") for name in names]
    shares = [drawn(f"share {label} {name}") for name in names]
    return age.encrypt(text, recipients, drawn(f"file key {label}", 16), shares, drawn(f"nonce {label}", 16))


def tensors() -> dict[str, object]:
    """The expansion of A, the layout's hash, the flat tensor, and what is drawn by seed."""
    factor = "base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"
    expansion = []
    for seed, name, shape in (
        (7, factor.format(0, "q", "A"), (2, 32)),
        (0, factor.format(1, "v", "A"), (8, 576)),
        (2**32 - 1, "a", (1, 3)),
    ):
        matrix = ind.expand(seed, name, *shape)
        expansion.append(
            {
                "seed": seed,
                "name": name,
                "shape": list(shape),
                "first": [float(value) for value in matrix.ravel()[:3]],
                "first_hex": [value.astype("<f4").tobytes().hex() for value in matrix.ravel()[:3]],
                "sha256": ind.sha256(matrix.astype("<f4").tobytes()),
            }
        )
    pairs = [(factor.format(0, "q", "B"), [32, 2]), (factor.format(0, "v", "B"), [16, 2])]
    values = np.array([0.0, -0.0, 1.0, -2.5, 1e-45, 3.4028234663852886e38, 0.1], np.float32)
    flat = ind.write_flat(values)
    refused = [
        ("cut", flat[:-1]),
        ("a byte too many", flat + b"\x00"),
        ("NaN", flat[:-4] + np.array([np.nan], "<f4").tobytes()),
        ("infinity", flat[:-4] + np.array([np.inf], "<f4").tobytes()),
        ("another name", flat.replace(b"adapter", b"adaptor")),
        ("another type", flat.replace(b"F32", b"I32")),
        ("another shape", flat.replace(b"[7]", b"[6]")),
        ("two dimensions", flat.replace(b"[7],", b"[7,1],").replace(b"}} ", b"}}", 1)),
        ("offsets beyond the file", flat.replace(b"[0,28]", b"[0,99]")),
        ("a header that promises 2^60 bytes", (2**60).to_bytes(8, "little") + flat[8:]),
    ]
    return {
        "note": NOTE,
        "expansion": expansion,
        "frozen_sha256": _frozen(7, 2),
        "layout": {"pairs": [list(pair) for pair in pairs], "size": 96, "sha256": ind.layout_sha256(pairs)},
        "flat": {
            "values": [float(value) for value in values],
            "file": flat.hex(),
            "sha256": ind.sha256(flat),
            "refused": [{"why": why, "file": data.hex()} for why, data in refused],
        },
        "site_seed": [
            {"seed": seed, "site": site, "value": ind.site_seed(seed, site)}
            for seed, site in ((7, "amazon"), (7, "movies"), (0, "site-1"))
        ],
        "cohort": [
            {"seed": 7, "round": number, "live": LIVE, "size": 2, "chosen": ind.cohort(LIVE, 7, number, 2)}
            for number in (1, 2, 3)
        ],
    }


LIVE = ["amazon", "movies", "nyt", "tweets"]


def _frozen(seed: int, rank: int) -> dict[str, Any]:
    """The hash over every A of the base `tiny`: two layers, q and v projections of 32 inputs."""
    names = [
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_A.weight"
        for layer in (0, 1)
        for part in ("q", "v")
    ]
    everything = b"".join(ind.expand(seed, name, rank, 32).astype("<f4").tobytes() for name in sorted(names))
    return {"seed": seed, "names": names, "shape": [rank, 32], "sha256": ind.sha256(everything)}


def _flipped(data: bytes, at: int) -> bytes:
    new = b"A" if data[at : at + 1] != b"A" else b"B"
    return data[:at] + new + data[at + 1 :]


def files() -> dict[str, str]:
    """Every published file by its name."""
    made = {
        "keys.json": {"note": NOTE, "parties": list(PARTIES.values())},
        "envelope.json": envelopes(),
        "sealing.json": sealing(),
        "tensors.json": tensors(),
        "ledger.json": ledger(),
        "private.json": private(),
    }
    return {name: json.dumps(body, indent=1, ensure_ascii=True) + "\n" for name, body in made.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
