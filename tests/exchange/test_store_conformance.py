"""What every store does, on each of them."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectStore

MIB = 1 << 20


@pytest.fixture(params=[pytest.param("minio", marks=pytest.mark.servers), "directory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return found


def test_what_is_put_comes_back(store: ObjectStore) -> None:
    info = store.put("fed/a.json", b"hello")
    assert (info.key, info.size) == ("fed/a.json", 5)
    assert store.get("fed/a.json", limit=5) == b"hello"


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("fed/empty", b"")
    assert store.get("fed/empty", limit=0) == b""
    assert store.stat("fed/empty").size == 0


def test_a_second_put_replaces_the_first_and_changes_the_etag(store: ObjectStore) -> None:
    first = store.put("fed/a", b"one")
    second = store.put("fed/a", b"two")
    assert store.get("fed/a", limit=9) == b"two"
    assert first.etag != second.etag
    assert store.put("fed/a", b"two").etag == second.etag


def test_stat_agrees_with_put(store: ObjectStore) -> None:
    put = store.put("fed/a", b"x" * 1000)
    stat = store.stat("fed/a")
    assert (stat.key, stat.size, stat.etag) == (put.key, put.size, put.etag)
    assert abs(stat.modified - put.modified) <= 2


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 1, 33 * MIB + 5], ids=["empty", "1", "3MiB+1", "parts"])
def test_a_file_travels_whole_and_its_hash_is_told(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = (b"0123456789abcde" * (size // 15 + 1))[:size]
    (tmp_path / "out").write_bytes(data)
    assert store.put_file("fed/big.bin", tmp_path / "out").size == size
    told = store.get_file("fed/big.bin", tmp_path / "in", limit=size)
    assert told == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "in").read_bytes() == data


def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    store.put("fed/a", b"x" * 2 * MIB)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RefusedError, match="larger than"):
        store.get_file("fed/a", target / "a", limit=2 * MIB - 1)
    assert list(target.iterdir()) == []


def test_a_refused_file_keeps_what_was_there_before(store: ObjectStore, tmp_path: Path) -> None:
    store.put("fed/a", b"x" * 100)
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(RefusedError):
        store.get_file("fed/a", tmp_path / "a", limit=99)
    assert (tmp_path / "a").read_bytes() == b"before"


def test_an_object_beyond_the_limit_is_refused(store: ObjectStore) -> None:
    store.put("fed/a", b"12345")
    with pytest.raises(RefusedError, match="larger than 4 bytes"):
        store.get("fed/a", limit=4)
    with pytest.raises(RefusedError, match="larger than 4 bytes"):
        store.get_if_changed("fed/a", None, limit=4)


def test_an_unchanged_object_is_not_read_again(store: ObjectStore) -> None:
    store.put("fed/head.json", b"1")
    first = store.get_if_changed("fed/head.json", None, limit=9)
    assert first is not None
    data, etag = first
    assert data == b"1"
    assert store.get_if_changed("fed/head.json", etag, limit=9) is None
    store.put("fed/head.json", b"2")
    second = store.get_if_changed("fed/head.json", etag, limit=9)
    assert second is not None
    assert second[0] == b"2"
    assert second[1] != etag


def test_the_etag_of_put_is_the_etag_of_a_conditional_get(store: ObjectStore) -> None:
    info = store.put("fed/head.json", b"1")
    assert store.get_if_changed("fed/head.json", info.etag, limit=9) is None


def test_what_is_not_there_is_said_to_be_not_there(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="fed/none"):
        store.get("fed/none", limit=9)
    with pytest.raises(ObjectNotFoundError):
        store.get_if_changed("fed/none", "etag", limit=9)
    with pytest.raises(ObjectNotFoundError):
        store.get_file("fed/none", tmp_path / "x", limit=9)
    with pytest.raises(ObjectNotFoundError):
        store.stat("fed/none")
    assert not (tmp_path / "x").exists()


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    store.put("fed/a", b"1")
    store.delete("fed/a")
    store.delete("fed/a")
    with pytest.raises(ObjectNotFoundError):
        store.get("fed/a", limit=9)


def test_a_listing_is_of_a_literal_prefix_in_the_order_of_keys(store: ObjectStore) -> None:
    keys = ["fed/sites/a/x", "fed/sites/a-evil/x", "fed/sites/a.b", "fed/sites/b/1/y", "fed/other"]
    for key in keys:
        store.put(key, key.encode())
    listed = list(store.list("fed/sites/"))
    assert [info.key for info in listed] == sorted(keys[:4])
    assert [info.size for info in listed] == [len(info.key) for info in listed]
    assert [info.etag for info in listed] == [store.stat(info.key).etag for info in listed]
    assert [info.key for info in store.list("fed/sites/a/")] == ["fed/sites/a/x"]
    assert [info.key for info in store.list("fed/sites/a")] == sorted(keys[:3])
    assert list(store.list("fed/none/")) == []
    assert len(list(store.list(""))) == 5


def test_a_long_listing_is_whole(store: ObjectStore) -> None:
    keys = [f"fed/k/{number:04}" for number in range(1005)]  # S3 answers with 1,000 at most
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert [info.key for info in store.list("fed/k/")] == keys


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "fed/../x",
        "..",
        "fed/./x",
        "fed//x",
        "fed/x/",
        "fed\\x",
        "fed/x\0y",
        "fed/.hidden",
        "fed/a b",
        "fed/%2e%2e/x",
        "fed/\u0430mazon/x",  # a Cyrillic a
        "fed/x\n",
        "a/" * 300 + "a",
    ],
)
def test_a_key_that_could_mean_two_things_is_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    for call in (
        lambda: store.put(key, b""),
        lambda: store.put_file(key, tmp_path),
        lambda: store.get(key, limit=1),
        lambda: store.get_if_changed(key, None, limit=1),
        lambda: store.get_file(key, tmp_path / "x", limit=1),
        lambda: store.stat(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(RefusedError, match="no key"):
            call()


def test_a_prefix_cannot_climb_out(store: ObjectStore) -> None:
    for prefix in ("../", "/", "fed/../", "fed//"):
        with pytest.raises(RefusedError):
            list(store.list(prefix))


def test_the_clock_is_about_now(store: ObjectStore) -> None:
    before = time.time()
    now = store.now()
    assert before - 2 <= now <= time.time() + 2
    modified = store.put("fed/a", b"").modified
    assert now - 2 <= modified <= store.now() + 2
