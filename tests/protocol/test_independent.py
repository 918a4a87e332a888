"""The second implementation reads what a real federation showed, from head.json to the model."""

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyrage
import pytest

from tests.protocol import independent as ind
from tests.protocol import independent_age as age
from tests.protocol.independent_checks import RefusedError
from tests.protocol.recorded import ROUNDS, RUN, SITES, Recorded

ALLOWED = ("cryptography.", "numpy", "tests.protocol.independent")
SIZE = 2 * 2 * (32 + 16)  # two layers of the base `tiny`, rank 2, B of q (32 outputs) and of v (16)


def secret(home: Path) -> bytes:
    return age.unbech32((home / "keys" / "age.key").read_text().strip(), "age-secret-key-")


def said(
    federation: Recorded, pinned: str, key: str, kind: str, **expected: object
) -> tuple[dict[str, Any], str]:
    """A coordinator's message, and the hash of its envelope."""
    data = federation.last(key)
    head = {"federation": "fed", "sender": "coordinator", "receiver": "east"}
    return ind.open_envelope(data, f"fedllm.{kind}/1", pinned, **head, **expected), ind.sha256(data)


def rounds(federation: Recorded, pinned: str, number: int) -> tuple[Any, ...]:
    place = {"run": RUN, "round": number}
    folder = f"coordinator/{RUN}/rounds/{number}"
    return tuple(
        said(federation, pinned, f"{folder}/{kind}.json", kind, **place)
        for kind in ("plan", "closed", "report")
    )


def opened(data: bytes, sealed: dict[str, Any], secret_key: bytes) -> bytes:
    assert (ind.sha256(data), len(data)) == (sealed["sealed_sha256"], sealed["sealed_bytes"])
    inside = age.decrypt(data, secret_key)
    assert (ind.sha256(inside), len(inside)) == (sealed["sha256"], sealed["bytes"])
    return inside


@pytest.mark.parametrize("name", sorted(path.stem for path in Path(__file__).parent.glob("independent*.py")))
def test_the_second_implementation_shares_no_code_with_the_first(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    imported = {
        module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [f"{node.module}.{name.name}" for name in node.names]
            if isinstance(node, ast.ImportFrom)
            else [name.name for name in node.names]
        )
    }
    foreign = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names}
    assert imported
    assert {module for module in foreign if not module.startswith(ALLOWED)} == set()


def test_every_head_that_names_a_plan_leads_to_it(federation: Recorded, pinned: str) -> None:
    heads = [data for key, data in federation.written if key == "fed/coordinator/head.json"]
    messages = [
        ind.open_envelope(
            data, "fedllm.head/1", pinned, federation="fed", sender="coordinator", receiver="east"
        )
        for data in heads
    ]
    assert [head["counter"] for head in messages] == sorted({head["counter"] for head in messages})
    training = [head for head in messages if head["state"] == "training"]
    assert {head["round"] for head in training} == set(range(1, ROUNDS + 1))
    for head in training:
        (plan, plan_sha256), _, _ = rounds(federation, pinned, head["round"])
        assert head["plan_sha256"] == plan_sha256
        assert plan["epoch"] <= head["epoch"]
    assert messages[-1]["state"] == "idle"


def test_plans_closings_and_reports_are_one_chain(federation: Recorded, pinned: str) -> None:
    before: tuple[dict[str, Any], str] | None = None
    for number in range(1, ROUNDS + 1):
        (plan, plan_sha256), (closed, closed_sha256), (report, report_sha256) = rounds(
            federation, pinned, number
        )
        assert closed["plan_sha256"] == plan_sha256
        assert report["closed_sha256"] == closed_sha256
        assert plan["follows"] == (before[1] if before else None)
        if before:
            assert plan["model"]["sha256"] == before[0]["model"]["sha256"]
        assert [counted["site"] for counted in closed["counted"]] == sorted(SITES)
        before = report, report_sha256


def test_an_object_is_written_before_what_names_it(federation: Recorded) -> None:
    order = [key for key, _ in federation.written]
    for number in range(1, ROUNDS + 1):
        folder = f"fed/coordinator/{RUN}/rounds/{number}"
        at = [order.index(f"{folder}/{kind}.json") for kind in ("plan", "closed", "report")]
        assert at == sorted(at)
        assert "fed/coordinator/head.json" in order[at[0] : at[1]]
        models = [i for i, key in enumerate(order) if f"/{RUN}/models/" in key]
        assert any(i < at[0] for i in models)
        assert any(at[1] < i < at[2] for i in models)


def test_every_site_opens_the_model_with_its_own_key_and_nobody_else_does(
    federation: Recorded, pinned: str
) -> None:
    _, _, (report, _) = rounds(federation, pinned, ROUNDS)
    data = dict(federation.written)[report["model"]["key"]]
    models = [opened(data, report["model"], secret(federation.home(site))) for site in SITES]
    assert len(set(models)) == 1
    assert np.abs(ind.read_flat(models[0], SIZE)).max() > 0
    with pytest.raises(age.AgeError, match="not for this identity"):
        age.decrypt(data, b"\x01" * 32)


def test_answers_and_updates_are_their_sites_about_this_very_plan(federation: Recorded, pinned: str) -> None:
    roster, _ = said(federation, pinned, "coordinator/roster.json", "roster")
    keys = {site["name"]: site["verify"] for site in roster["sites"]}
    assert set(keys) == set(SITES)
    for number in range(1, ROUNDS + 1):
        (plan, plan_sha256), _, _ = rounds(federation, pinned, number)
        for site in SITES:
            place = {
                "federation": "fed",
                "sender": site,
                "receiver": "coordinator",
                "run": RUN,
                "round": number,
            }
            place["roster_version"] = plan["roster_version"]
            for kind in ("answer", "update"):
                data = federation.sites[f"fed/sites/{site}/{RUN}/{number}/{kind}.json"]
                message = ind.open_envelope(data, f"fedllm.{kind}/1", keys[site], **place)
                assert message["plan_sha256"] == plan_sha256
            other = next(name for name in SITES if name != site)
            with pytest.raises(RefusedError):
                ind.open_envelope(data, "fedllm.update/1", keys[other], **place)


def test_the_counted_updates_give_the_reported_model_to_the_bit(federation: Recorded, pinned: str) -> None:
    """Weights, the order of the sum, its precision and the sealing for the round's own key."""
    for number in range(1, ROUNDS + 1):
        (plan, _), (closed, _), (report, _) = rounds(federation, pinned, number)
        round_key = age.unbech32(federation.round_keys[number], "age-secret-key-")
        assert age.bech32("age", age.public(round_key)) == plan["recipient"]
        site_key = secret(federation.home("north"))
        objects = dict(federation.written)
        before = ind.read_flat(opened(objects[plan["model"]["key"]], plan["model"], site_key), SIZE)
        updates = []
        for counted in closed["counted"]:
            assert counted["weight"] == plan["weights"][counted["site"]]
            data = federation.sites[counted["payload"]["key"]]
            updates.append(
                (counted["weight"], ind.read_flat(opened(data, counted["payload"], round_key), SIZE))
            )
            with pytest.raises(age.AgeError, match="not for this identity"):
                age.decrypt(data, site_key)
        after = (before.astype(np.float64) + ind.mean(updates).astype(np.float64)).astype(np.float32)
        assert ind.sha256(ind.write_flat(after)) == report["model"]["sha256"]


def test_no_update_is_left_in_the_store_and_the_coordinators_own_key_would_not_open_it(
    federation: Recorded,
) -> None:
    assert list((federation.folder / "store").rglob("update.bin")) == []
    own = secret(federation.folder / "home" / "coordinator" / "fed")
    for key, data in federation.sites.items():
        if key.endswith("update.bin"):
            with pytest.raises(age.AgeError, match="not for this identity"):
                age.decrypt(data, own)


def test_the_frozen_part_and_the_layout_are_those_of_the_plan(federation: Recorded, pinned: str) -> None:
    (plan, _), _, _ = rounds(federation, pinned, 1)
    names = [
        f"base_model.model.model.layers.{layer}.self_attn.{part}_proj.lora_{{}}.weight"
        for layer in (0, 1)
        for part in ("q", "v")
    ]
    frozen = b"".join(ind.expand(plan["seed"], name.format("A"), 2, 32).tobytes() for name in names)
    assert ind.sha256(frozen) == plan["frozen_sha256"]
    pairs = [(name.format("B"), [32 if ".q_" in name else 16, 2]) for name in names]
    assert ind.layout_sha256(pairs) == plan["layout_sha256"]


def test_an_invitation_is_opened_by_its_site_alone(federation: Recorded, pinned: str) -> None:
    data = (federation.home("west") / "fed.invitation").read_bytes()
    outer = json.loads(age.decrypt(data, secret(federation.home("west"))))
    assert set(outer) == {"federation", "coordinator", "envelope"}
    assert outer["coordinator"]["verify"] == pinned
    invitation = ind.open_envelope(
        outer["envelope"].encode(),
        "fedllm.invitation/1",
        pinned,
        federation=outer["federation"],
        sender="coordinator",
        receiver="west",
    )
    assert invitation["coordinator"] == outer["coordinator"]
    with pytest.raises(age.AgeError, match="not for this identity"):
        age.decrypt(data, secret(federation.home("east")))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_the_second_implementation_opens_what_pyrage_seals_and_the_reverse(size: int) -> None:
    text = os.urandom(size)
    one, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    key = age.unbech32(str(other), "age-secret-key-")
    assert age.decrypt(pyrage.encrypt(text, [one.to_public(), other.to_public()]), key) == text
    assert age.bech32("age", age.public(key)) == str(other.to_public())
    written = age.encrypt(text, [age.public(key)], os.urandom(16), [os.urandom(32)], os.urandom(16))
    assert pyrage.decrypt(written, [other]) == text


def test_the_key_of_the_age_specification_gives_its_recipient() -> None:
    example = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    assert age.bech32("age", age.public(age.unbech32(example, "age-secret-key-"))) == recipient
