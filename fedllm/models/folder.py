"""What a base model's folder holds, without loading it: its fingerprint, and the kind of model."""

import hashlib
import json
from pathlib import Path

from fedllm.config import cache_dir
from fedllm.data.records import sha256_file, write_bytes
from fedllm.errors import ModelError

IMAGES = "fedllm-vision"  # config.json's model_type of an image model

_FINGERPRINTED = (
    "*.safetensors",
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
)
_VOLATILE = {"transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype"}


def fingerprint(folder: Path) -> str:
    """SHA-256 over weights, configuration and tokenizer: equal where, and only where, bases are equal.

    What a version of transformers writes about itself in config.json is left out. The result is kept
    in the cache, by the files' sizes and times of change.
    """
    files, kept = _fingerprinted(folder)
    if not any(file.suffix == ".safetensors" for file in files):
        raise ModelError(f"{folder}: no .safetensors weights to fingerprint")
    stats = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["stats"] == stats:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there or not whole: computed again
    sha256 = _measured(files)
    write_bytes(kept, json.dumps({"stats": stats, "sha256": sha256}).encode())
    return sha256


def is_intact(folder: Path) -> bool | None:
    """Whether a base's bytes still are those of its kept fingerprint; None when none is kept.

    Every byte is read again, whatever sizes and times say. Nothing is changed.
    """
    files, kept = _fingerprinted(folder)
    try:
        known = str(json.loads(kept.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _measured(files) == known


def _fingerprinted(folder: Path) -> tuple[list[Path], Path]:
    """The files that make a fingerprint, and where it is kept."""
    files = sorted({file for pattern in _FINGERPRINTED for file in folder.glob(pattern) if file.is_file()})
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return files, cache_dir() / "fingerprints" / f"{key}.json"


def _measured(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_digest(file)}\n".encode())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    if file.name != "config.json":
        return sha256_file(file)
    config = json.loads(file.read_text(encoding="utf-8"))
    stable = {key: value for key, value in config.items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()


def is_vision(folder: Path) -> bool:
    """Whether a folder holds an image model of fedllm."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("model_type") == IMAGES
