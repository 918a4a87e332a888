"""What is the folder's own."""

import threading
from pathlib import Path

import pytest

from fedllm.errors import ExchangeError, ObjectNotFoundError
from fedllm.exchange.directory_store import DirectoryStore


def test_a_reader_sees_old_or_new_and_never_a_half(directory_store: DirectoryStore) -> None:
    versions = [bytes([number]) * 300_000 for number in range(2)]
    directory_store.put("fed/a", versions[0])
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            directory_store.put("fed/a", versions[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(directory_store.get("fed/a", limit=300_000))
    writer.join()
    assert seen <= set(versions)


def test_what_is_being_written_is_no_object(directory_store: DirectoryStore) -> None:
    directory_store.put("fed/a", b"1")
    (directory_store.folder / "fed" / ".part-x").write_bytes(b"half")
    assert [info.key for info in directory_store.list("")] == ["fed/a"]


def test_a_folder_is_no_object(directory_store: DirectoryStore) -> None:
    directory_store.put("fed/a/b", b"1")
    with pytest.raises(ObjectNotFoundError):
        directory_store.get("fed/a", limit=9)
    with pytest.raises(ObjectNotFoundError):
        directory_store.get("fed/a/b/c", limit=9)
    with pytest.raises(ExchangeError):
        directory_store.put("fed/a", b"1")


def test_an_absent_source_is_not_called_an_absent_object(
    directory_store: DirectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(ExchangeError, match="nowhere") as caught:
        directory_store.put_file("fed/a", tmp_path / "nowhere")
    assert not isinstance(caught.value, ObjectNotFoundError)
