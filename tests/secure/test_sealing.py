"""Sealed bytes open for their recipients, and for nobody else."""

from pathlib import Path

import pytest

from fedllm.errors import IdentityError, RefusedError
from fedllm.secure.identity import Identity, create_identity
from fedllm.secure.sealing import seal, unseal


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Identity]:
    return {name: create_identity(tmp_path / name, name) for name in ("amazon", "movies", "nyt")}


def test_each_recipient_opens_and_no_other(parties: dict[str, Identity]) -> None:
    sealed = seal(b"model", [parties[name].public.recipient for name in ("amazon", "movies")])
    assert unseal(sealed, parties["amazon"]) == b"model"
    assert unseal(sealed, parties["movies"]) == b"model"
    with pytest.raises(RefusedError, match="not sealed for nyt"):
        unseal(sealed, parties["nyt"])


def test_a_changed_byte_anywhere_is_refused(parties: dict[str, Identity]) -> None:
    sealed = seal(b"m" * 100, [parties["amazon"].public.recipient])
    for place in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(RefusedError):
            unseal(bytes(changed), parties["amazon"])


@pytest.mark.parametrize("cut", [0, 10, 150, -1, -20])
def test_a_cut_file_is_refused(parties: dict[str, Identity], cut: int) -> None:
    sealed = seal(b"m" * 100, [parties["amazon"].public.recipient])
    with pytest.raises(RefusedError):
        unseal(sealed[:cut], parties["amazon"])


def test_sealing_hides_what_is_inside(parties: dict[str, Identity]) -> None:
    sealed = seal(b"a secret of the site", [parties["amazon"].public.recipient])
    assert b"secret" not in sealed
    assert sealed != seal(b"a secret of the site", [parties["amazon"].public.recipient])


def test_nobody_and_nonsense_are_no_recipients() -> None:
    with pytest.raises(IdentityError, match="at least one"):
        seal(b"x", [])
    with pytest.raises(IdentityError, match="no age recipient"):
        seal(b"x", ["age1" + "q" * 58])
