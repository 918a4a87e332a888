"""Partition records among simulated sites and hold out a public part, deterministically by seed."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fedllm.config import PartitionConfig
from fedllm.data.records import Record, group_of
from fedllm.errors import DataError

PART, PUBLIC = "part", "public"  # the field and value that mark a corpus' own held-out part

_HOLD_OUT, _PARTITION = 1, 2  # streams of one seed must not be the same stream
_LARGEST_SHARE = 5  # the public part is at most a fifth of a group


def hold_out(records: Sequence[Record], per_group: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Hold out a public part: the records marked as public, else a random sample that ignores labels.

    Args:
        records: all records.
        per_group: how many of each silo, at most a fifth of it.
        seed: of the draw.

    Returns:
        The training part in the given order, and the public part by silo in the order drawn, or in the given
        order if records are marked.
    """
    marked = [record for record in records if record.get(PART) == PUBLIC]
    if marked:
        return [record for record in records if record.get(PART) != PUBLIC], marked
    rng = np.random.default_rng([seed, _HOLD_OUT])
    groups = _by(records, [group_of(record) for record in records])
    public: list[int] = []
    for name in sorted(groups):
        drawn = rng.permutation(len(groups[name]))
        count = min(per_group, max(1, len(drawn) // _LARGEST_SHARE))
        public += [groups[name][i] for i in drawn[:count]]
    taken = set(public)
    train = [record for i, record in enumerate(records) if i not in taken]
    return train, [records[i] for i in public]


def partition(
    records: Sequence[Record], sites: Sequence[str], config: PartitionConfig, seed: int
) -> dict[str, list[Record]]:
    """Partition records among sites.

    `silo` gives each site the silo of its name (with as many sites as silos, in order, when the names
    differ); `iid` partitions at random; `dirichlet` draws each label's shares among the sites from a
    symmetric Dirichlet(alpha) (Hsu et al. 2019); `shards` sorts by label and gives each site that many
    contiguous pieces (McMahan et al. 2017).

    Raises:
        DataError: there is no such silo, needed labels are missing, or a site is left empty.
    """
    if not sites:
        raise DataError("simulation.sites names no site")
    rng = np.random.default_rng([seed, _PARTITION])
    if config.by == "silo":
        parts = _silos(records, sites)
    elif config.by == "iid":
        parts = [list(part) for part in np.array_split(rng.permutation(len(records)), len(sites))]
    elif config.by == "dirichlet":
        parts = _dirichlet(_labels(records), len(sites), config.alpha, rng)
    else:
        parts = _shards(_labels(records), len(sites), config.shards, rng)
    if empty := [site for site, part in zip(sites, parts, strict=True) if not part]:
        raise DataError(
            f"the partition {config.by} leaves {', '.join(empty)} empty: use fewer sites or more data"
        )
    # Sorted, so that a site's file does not depend on how the parts were drawn.
    return {site: [records[int(i)] for i in sorted(part)] for site, part in zip(sites, parts, strict=True)}


def _by(records: Sequence[Record], keys: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i in range(len(records)):
        groups[keys[i]].append(i)
    return dict(groups)


def _labels(records: Sequence[Record]) -> dict[str, list[int]]:
    for record in records:
        if "label" not in record:
            raise DataError(f"record {record.get('id', '?')} has no label: partition by iid or silo instead")
    return _by(records, [record["label"] for record in records])


def _silos(records: Sequence[Record], sites: Sequence[str]) -> list[list[int]]:
    groups = _by(records, [group_of(record) for record in records])
    if missing := [site for site in sites if site not in groups]:
        if len(sites) == len(groups) and len(missing) == len(sites):
            return [groups[name] for name in sorted(groups)]
        raise DataError(
            f"no silo {', '.join(missing)}: the data has {', '.join(sorted(groups))}; name these as "
            "simulation.sites or set simulation.partition to iid"
        )
    return [groups[site] for site in sites]


def _dirichlet(
    labels: dict[str, list[int]], sites: int, alpha: float, rng: np.random.Generator
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(sites)]
    for label in sorted(labels):
        order = rng.permutation(labels[label])
        shares = rng.dirichlet(np.full(sites, alpha))  # (sites,)
        borders = (np.cumsum(shares)[:-1] * len(order)).round().astype(int)
        for part, piece in zip(parts, np.split(order, borders), strict=True):
            part.extend(int(i) for i in piece)
    for part in parts:  # a site without records cannot take part: the largest gives it one
        if not part:
            largest = max(parts, key=len)
            part.append(largest.pop())
    return parts


def _shards(
    labels: dict[str, list[int]], sites: int, shards: int, rng: np.random.Generator
) -> list[list[int]]:
    order = np.concatenate([rng.permutation(labels[label]) for label in sorted(labels)])
    pieces = np.array_split(order, sites * shards)
    assigned = rng.permutation(len(pieces)).reshape(sites, shards)
    return [[int(i) for piece in row for i in pieces[piece]] for row in assigned]
