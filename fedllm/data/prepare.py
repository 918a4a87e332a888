"""Write the data of a simulated federation: `raw.jsonl`, `sites/{site}.jsonl` and `public.jsonl`.

DVC's stages and `prepare` call the same functions, so both give the same bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fedllm.config import FederationConfig, SimulationConfig, cache_dir
from fedllm.data.partition import hold_out, partition
from fedllm.data.records import (
    Record,
    distinct,
    group_of,
    read_records,
    sha256_file,
    write_bytes,
    write_records,
)
from fedllm.data.sources import load_source
from fedllm.errors import ConfigError, DataError

PUBLIC_PER_SILO = 500  # records
_LAYOUT = 1  # raise it when the same configuration gives other files


@dataclass(frozen=True)
class PreparedData:
    """Paths of each site's records and of the public records."""

    sites: dict[str, Path]
    public: Path


def prepare(config: FederationConfig, folder: Path) -> PreparedData:
    """Fetch, partition and hold out; does nothing while files and manifest agree.

    Raises:
        ConfigError: the configuration has no `simulation`.
        DataError: as of `load_source` and `partition`.
    """
    prepared = layout(config, folder)
    manifest = folder / "manifest.json"
    wanted = inputs_sha256(config)
    if _fresh(manifest, wanted, folder):
        return prepared
    fetch(config, folder)
    split_sites(config, folder)
    evalset(config, folder)
    files = sorted([prepared.public, folder / "raw.jsonl", *prepared.sites.values()])
    hashes = {str(file.relative_to(folder)): sha256_file(file) for file in files}
    text = json.dumps({"inputs": wanted, "files": hashes}, indent=1, sort_keys=True)
    write_bytes(manifest, text.encode())
    return prepared


def cached_data(config: FederationConfig) -> PreparedData:
    """Return the simulated sites' data in the cache, preparing them first if they are absent."""
    return prepare(config, cache_dir() / "data" / inputs_sha256(config)[:16])


def layout(config: FederationConfig, folder: Path) -> PreparedData:
    """Return the paths that `prepare` writes, whether they exist or not."""
    sites = {name: folder / "sites" / f"{name}.jsonl" for name in _simulation(config).names}
    return PreparedData(sites=sites, public=folder / "public.jsonl")


def fetch(config: FederationConfig, folder: Path) -> list[Record]:
    """Write the source's distinct records to `raw.jsonl`."""
    records = load_source(_simulation(config).source)
    write_records(folder / "raw.jsonl", records)
    return records


def split_sites(config: FederationConfig, folder: Path) -> dict[str, list[Record]]:
    """Write each site's records, none of them public."""
    simulation = _simulation(config)
    train, _ = _split(config, folder)
    parts = partition(train, simulation.names, simulation.partition, config.seed)
    for name, path in layout(config, folder).sites.items():
        write_records(path, parts[name])
    return parts


def evalset(config: FederationConfig, folder: Path) -> list[Record]:
    """Write the public records."""
    _, public = _split(config, folder)
    write_records(folder / "public.jsonl", public)
    return public


def load_public(config: FederationConfig, path: Path) -> list[Record]:
    """Read the public records, at most `evaluation.limit` per group."""
    limit = config.evaluation.limit
    counts: dict[str, int] = {}
    kept: list[Record] = []
    for record in read_records(path):
        group = group_of(record)
        counts[group] = counts.get(group, 0) + 1
        if limit is None or counts[group] <= limit:
            kept.append(record)
    return kept


def _split(config: FederationConfig, folder: Path) -> tuple[list[Record], list[Record]]:
    raw = read_records(folder / "raw.jsonl")
    if config.evaluation.public == "auto":
        return hold_out(raw, PUBLIC_PER_SILO, config.seed)
    public = load_source(_public_file(config))
    return distinct(raw, but=public), public


def _public_file(config: FederationConfig) -> str:
    path = config.evaluation.public
    if not Path(path).is_file():
        raise DataError(f"evaluation.public: no file {path}; name a .jsonl file or set it to auto")
    return path


def _simulation(config: FederationConfig) -> SimulationConfig:
    if config.simulation is None:
        raise ConfigError("the configuration has no `simulation`: say who would hold what, or let sites join")
    return config.simulation


def inputs_sha256(config: FederationConfig) -> str:
    """Return the SHA-256 of all inputs that determine the files' bytes."""
    simulation = _simulation(config)
    seen = {
        "layout": _LAYOUT,
        "seed": config.seed,
        "sites": simulation.names,
        "partition": simulation.partition.model_dump(),
        "files": [
            [name, sha256_file(Path(name)) if Path(name).is_file() else None]
            for name in (simulation.source, config.evaluation.public)
        ],
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _fresh(manifest: Path, inputs: str, folder: Path) -> bool:
    try:
        known = json.loads(manifest.read_text(encoding="utf-8"))
        return known["inputs"] == inputs and all(
            sha256_file(folder / name) == sha for name, sha in known["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
