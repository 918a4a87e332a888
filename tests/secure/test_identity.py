"""Keys: made where they are used, for their owner's eyes alone."""

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedllm.errors import IdentityError
from fedllm.protocol.messages import PublicKeys
from fedllm.secure.identity import create_identity, fingerprint, load_identity, write_private


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_comes_back_from_its_files(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "keys", "amazon")
    loaded = load_identity(tmp_path / "keys")
    assert loaded.public == made.public
    assert loaded.public.name == "amazon"


def test_keys_are_files_of_mode_600_in_a_folder_of_mode_700_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_identity(tmp_path / "keys", "amazon")
    finally:
        os.umask(before)
    assert _mode(tmp_path / "keys") == 0o700
    assert {path.name: _mode(path) for path in (tmp_path / "keys").iterdir()} == {
        "sign.key": 0o600,
        "age.key": 0o600,
        "public.json": 0o600,
    }


def test_a_private_file_is_never_wider_and_never_overwritten(tmp_path: Path) -> None:
    write_private(tmp_path / "x", b"1")
    assert _mode(tmp_path / "x") == 0o600
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["sign.key", "age.key", "public.json"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_not_loaded(tmp_path: Path, name: str, mode: int) -> None:
    create_identity(tmp_path / "keys", "amazon")
    (tmp_path / "keys" / name).chmod(mode)
    with pytest.raises(IdentityError, match=rf"chmod 600 .*{name}"):
        load_identity(tmp_path / "keys")


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    create_identity(tmp_path / "keys", "amazon")
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(IdentityError, match=r"chmod 700 .*keys"):
        load_identity(tmp_path / "keys")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(IdentityError, match=r"chmod 700 .*open"):
        create_identity(tmp_path / "open", "amazon")
    assert list((tmp_path / "open").iterdir()) == []


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    made = create_identity(tmp_path / "keys", "amazon")
    with pytest.raises(IdentityError, match="never overwritten"):
        create_identity(tmp_path / "keys", "amazon")
    assert load_identity(tmp_path / "keys").public == made.public


def test_a_creation_that_fails_leaves_no_half(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    (folder / "public.json").write_text("mine")
    with pytest.raises(IdentityError, match=r"public\.json"):
        create_identity(folder, "amazon")
    assert [path.name for path in folder.iterdir()] == ["public.json"]


def test_an_absent_identity_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="nowhere"):
        load_identity(tmp_path / "nowhere")
    create_identity(tmp_path / "keys", "amazon")
    (tmp_path / "keys" / "age.key").unlink()
    with pytest.raises(IdentityError, match=r"age\.key"):
        load_identity(tmp_path / "keys")


@pytest.mark.parametrize("name", ["sign.key", "age.key", "public.json"])
def test_a_damaged_key_is_refused_without_being_quoted(tmp_path: Path, name: str) -> None:
    create_identity(tmp_path / "keys", "amazon")
    path = tmp_path / "keys" / name
    path.write_bytes(path.read_bytes()[:40] + b"?")
    with pytest.raises(IdentityError, match="damaged") as caught:
        load_identity(tmp_path / "keys")
    assert caught.value.__cause__ is None
    assert path.read_text()[:20] not in str(caught.value)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    create_identity(tmp_path / "keys", "amazon")
    other = generate_private_key(SECP256R1())
    (tmp_path / "keys" / "sign.key").write_bytes(
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(IdentityError, match="Ed25519"):
        load_identity(tmp_path / "keys")


def test_files_of_two_identities_do_not_mix(tmp_path: Path) -> None:
    create_identity(tmp_path / "a", "amazon")
    create_identity(tmp_path / "b", "movies")
    (tmp_path / "a" / "age.key").write_bytes((tmp_path / "b" / "age.key").read_bytes())
    with pytest.raises(IdentityError, match="other keys"):
        load_identity(tmp_path / "a")


def test_no_key_is_ever_printed(tmp_path: Path) -> None:
    identity = create_identity(tmp_path / "keys", "amazon")
    assert repr(identity) == "Identity(name='amazon')"
    assert "SECRET" not in f"{identity}{vars(identity).keys()}"


@pytest.mark.parametrize("name", ["", "Amazon", "a/b", "a.b", "everyone", "x" * 64, "a\n"])
def test_a_name_that_cannot_be_one_gets_no_keys(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="name"):
        create_identity(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


def test_a_fingerprint_changes_with_the_name_and_with_each_key() -> None:
    keys = PublicKeys(name="amazon", verify="ab" * 32, recipient="age1" + "q" * 58)
    others = [
        keys.model_copy(update={"name": "movies"}),
        keys.model_copy(update={"verify": "ac" * 32}),
        keys.model_copy(update={"recipient": "age1" + "p" * 58}),
    ]
    prints = {fingerprint(found) for found in [keys, *others]}
    assert len(prints) == 4
    # { printf 'fedllm.keys/1\namazon\n'; …; } | openssl dgst -sha256 -binary | head -c 20 | base32
    assert fingerprint(keys) == "65fn-hhea-ywle-gwrz-h6ot-lapw-7iwq-2uhw"
    assert all(len(found) == 39 and found.count("-") == 7 for found in prints)
