"""The published vectors: made anew they are the same, and both implementations agree on them."""

import base64
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyrage
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedllm.agent.job import site_seed
from fedllm.errors import RefusedError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.models.codec import decode_flat, encode_flat
from fedllm.models.expansion import expand
from fedllm.models.shared import SharedLayout
from fedllm.protocol.messages import Answer, Message, PublicKeys, Update
from fedllm.schedule.sync import Sync
from fedllm.secure.envelope import open_envelope, sign
from fedllm.secure.identity import Identity, fingerprint
from fedllm.secure.sealing import unseal
from tests.protocol import independent as ind
from tests.protocol import independent_age as age
from tests.protocol.independent_checks import RefusedError as AlsoRefusedError
from tests.protocol.vectors import FOLDER, files

KINDS: dict[str, type[Message]] = {"fedllm.answer/1": Answer, "fedllm.update/1": Update}


def published(name: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


ENVELOPES, SEALING, TENSORS = (published(f"{name}.json") for name in ("envelope", "sealing", "tensors"))
PARTIES = {party["name"]: party for party in published("keys.json")["parties"]}


def identity(name: str) -> Identity:
    party = PARTIES[name]
    signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(party["ed25519_seed"]))
    return Identity(name, signing, pyrage.x25519.Identity.from_str(party["age_identity"]))


def label(vector: dict[str, Any]) -> str:
    return str(vector.get("why") or vector.get("label") or vector.get("name"))


@pytest.mark.parametrize("name", sorted(files()))
def test_a_published_file_is_what_its_generator_makes(name: str) -> None:
    assert files()[name] == (FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(PARTIES))
def test_fedllm_derives_the_same_public_keys_key_id_and_fingerprint(name: str) -> None:
    party, mine = PARTIES[name], identity(name)
    assert mine.public == PublicKeys(name=name, verify=party["verify"], recipient=party["recipient"])
    assert fingerprint(mine.public) == party["fingerprint"]
    said = Answer(
        federation="f",
        sender=name,
        receiver="everyone",
        roster_version=0,
        plan_sha256="00" * 32,
        decision="accept",
    )
    assert json.loads(sign(said, mine))["signatures"][0]["keyid"] == party["keyid"]


@pytest.mark.parametrize("vector", ENVELOPES["accepted"], ids=lambda v: v["message"]["schema"])
def test_fedllm_signs_the_same_bytes_and_reads_them(vector: dict[str, Any]) -> None:
    kind = KINDS[vector["message"]["schema"]]
    message = kind.model_validate_json(json.dumps(vector["message"]), by_alias=True, by_name=False)
    assert sign(message, identity("amazon")).decode() == vector["envelope"]
    expected = ENVELOPES["expected"]
    opened = open_envelope(vector["envelope"].encode(), kind, identity("amazon").public, **expected)
    assert opened == message


@pytest.mark.parametrize("vector", ENVELOPES["accepted"], ids=lambda v: v["message"]["schema"])
def test_the_second_implementation_reads_what_is_to_be_accepted(vector: dict[str, Any]) -> None:
    data, verify = vector["envelope"].encode(), PARTIES["amazon"]["verify"]
    opened = ind.open_envelope(data, vector["message"]["schema"], verify, **ENVELOPES["expected"])
    assert opened == vector["message"]
    assert ind.compact(opened) == vector["payload"].encode()
    assert ind.sha256(data) == vector["envelope_sha256"]
    assert ind.sha256(ind.pae(vector["payload"].encode())) == vector["signed_bytes_sha256"]


@pytest.mark.parametrize("vector", ENVELOPES["refused"], ids=label)
def test_fedllm_refuses_what_is_to_be_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        open_envelope(vector["envelope"].encode(), Answer, identity("amazon").public, **ENVELOPES["expected"])


@pytest.mark.parametrize("vector", ENVELOPES["refused"], ids=label)
def test_the_second_implementation_refuses_what_is_to_be_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(AlsoRefusedError):
        ind.open_envelope(
            vector["envelope"].encode(),
            "fedllm.answer/1",
            PARTIES["amazon"]["verify"],
            **ENVELOPES["expected"],
        )


@pytest.mark.parametrize("vector", SEALING["opened"], ids=label)
def test_both_implementations_open_a_sealed_file(vector: dict[str, Any]) -> None:
    data, inside = base64.b64decode(vector["file"]), bytes.fromhex(vector["inside"])
    assert (ind.sha256(data), len(data)) == (vector["sealed_sha256"], vector["sealed_bytes"])
    assert (ind.sha256(inside), len(inside)) == (vector["sha256"], vector["bytes"])
    assert unseal(data, identity("amazon")) == inside
    assert age.decrypt(data, age.unbech32(SEALING["identity"], "age-secret-key-")) == inside


@pytest.mark.parametrize("vector", SEALING["refused"], ids=label)
def test_both_implementations_refuse_a_damaged_file(vector: dict[str, Any]) -> None:
    data = base64.b64decode(vector["file"])
    with pytest.raises(RefusedError):
        unseal(data, identity("amazon"))
    with pytest.raises(age.AgeError):
        age.decrypt(data, age.unbech32(SEALING["identity"], "age-secret-key-"))


@pytest.mark.parametrize("vector", TENSORS["expansion"], ids=lambda v: f"{v['seed']}-{v['name'][-24:]}")
def test_fedllm_expands_the_same_numbers(vector: dict[str, Any]) -> None:
    matrix = expand(vector["seed"], vector["name"], tuple(vector["shape"])).numpy()
    assert ind.sha256(matrix.tobytes()) == vector["sha256"]
    assert [float(value) for value in matrix.ravel()[:3]] == vector["first"]
    assert [value.tobytes().hex() for value in matrix.ravel()[:3]] == vector["first_hex"]


def test_an_adapter_on_a_real_base_has_the_published_hash_over_its_frozen_part() -> None:
    from fedllm.config import AdapterConfig

    vector = TENSORS["frozen_sha256"]
    config = AdapterConfig(rank=vector["shape"][0])
    adapted = attach(load_base(resolve_base("tiny"))[0], config, vector["seed"])
    assert adapted.frozen_sha256 == vector["sha256"]


def test_fedllm_hashes_the_layout_as_published() -> None:
    vector = TENSORS["layout"]
    names, shapes = zip(*vector["pairs"], strict=True)
    layout = SharedLayout(names, tuple(tuple(shape) for shape in shapes))
    assert (layout.sha256, layout.size) == (vector["sha256"], vector["size"])


def test_both_implementations_write_and_read_the_same_flat_tensor() -> None:
    vector = TENSORS["flat"]
    data, values = bytes.fromhex(vector["file"]), np.array(vector["values"], np.float32)
    assert encode_flat(torch.from_numpy(values)) == ind.write_flat(values) == data
    assert decode_flat(data, len(values)).numpy().tobytes() == ind.read_flat(data, len(values)).tobytes()
    assert ind.read_flat(data, len(values)).tobytes() == values.tobytes()


@pytest.mark.parametrize("vector", TENSORS["flat"]["refused"], ids=label)
def test_both_implementations_refuse_a_tensor_that_lies(vector: dict[str, Any]) -> None:
    data, size = bytes.fromhex(vector["file"]), len(TENSORS["flat"]["values"])
    assert data != bytes.fromhex(TENSORS["flat"]["file"])
    with pytest.raises(RefusedError):
        decode_flat(data, size)
    with pytest.raises(AlsoRefusedError):
        ind.read_flat(data, size)


@pytest.mark.parametrize("vector", TENSORS["site_seed"], ids=lambda v: f"{v['seed']}-{v['site']}")
def test_a_sites_seed_is_as_published(vector: dict[str, Any]) -> None:
    assert site_seed(vector["seed"], vector["site"]) == vector["value"]


@pytest.mark.parametrize("vector", TENSORS["cohort"], ids=lambda v: v["round"])
def test_a_cohort_is_drawn_as_published(vector: dict[str, Any]) -> None:
    rounds = SimpleNamespace(cohort=vector["size"] / len(vector["live"]), min_sites=1)
    config: Any = SimpleNamespace(seed=vector["seed"], rounds=rounds)
    assert list(Sync().cohort(config, vector["live"], vector["round"])) == vector["chosen"]
