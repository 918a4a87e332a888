"""Base models from a hub such as huggingface.co, which must answer within seconds."""

import os
import re
import threading
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from fedllm.errors import ModelError

PATIENCE = 4.0  # s within which a hub must answer; its client alone retries for half a minute
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
_LOCAL = (
    "without a network name a folder that holds config.json, tokenizer.json and model.safetensors, or "
    "smollm2-135m"
)


def require_hub(name: str) -> None:
    """Check that a model is in the hub client's cache, or that the hub answers. Fetches nothing.

    Args:
        name: a hub id, with or without @revision.

    Raises:
        ModelError: the name cannot be a hub id, or nothing answers within `PATIENCE`.
    """
    if not _ID.fullmatch(name):
        raise ModelError(f"model.base: no folder, .gguf file or hub model {name!r}")
    if _cached(name):
        return
    if why := _refusal(name.partition("@")[0]):
        raise ModelError(f"model.base: no folder or .gguf file {name!r}, and as a hub model {why}; {_LOCAL}")


def from_hub(name: str) -> Path:
    """Fetch a model unless the hub client's cache has it, and return its folder.

    Raises:
        ModelError: the hub does not answer in time, or has no such model.
    """
    require_hub(name)
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=_PATTERNS, etag_timeout=PATIENCE
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds, all with the same remedy
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"model.base: no folder, .gguf file or hub model {name!r} ({cause}); {_LOCAL}"
        ) from None
    return Path(folder)


def hub_id(name: str) -> str | None:
    """Return a base's public id; None for a folder, a file, or a name that only fedllm knows."""
    path = Path(name).expanduser()
    if "/" not in name or path.exists() or path.suffix == ".gguf" or not _ID.fullmatch(name):
        return None
    return name.partition("@")[0]


def _cached(name: str) -> bool:
    """Return whether any revision of a model is in the hub client's cache."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()
    repository = name.partition("@")[0].replace("/", "--")
    return any((cache / f"models--{repository}" / "snapshots").glob("*/config.json"))


def _refusal(repository: str) -> str | None:
    """Return why the hub does not provide a model; None if it does."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return "it is not in the cache, and HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    failures: list[str] = []
    done = threading.Event()

    def request() -> None:
        try:
            # The user chooses the endpoint; it is http only where a test or a mirror has no TLS.
            with urllib.request.urlopen(f"{endpoint}/api/models/{repository}", timeout=PATIENCE):  # noqa: S310  # nosec B310
                pass
        except urllib.error.HTTPError as error:
            if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR or not _has_token():
                failures.append(f"does not have it (HTTP {error.code})")
        except (OSError, ValueError) as error:
            failures.append(f"does not answer ({getattr(error, 'reason', error)})")
        done.set()

    # A name server may exceed the timeout of a connection: the thread is not joined.
    threading.Thread(target=request, daemon=True, name="hub").start()
    if not done.wait(PATIENCE):
        return f"it is not in the cache, and {endpoint} does not answer within {PATIENCE:.0f} s"
    return f"it is not in the cache, and {endpoint} {failures[0]}" if failures else None


def _has_token() -> bool:
    """Return whether the hub client has a token, and so may see more than a request without one."""
    return bool(os.environ.get("HF_TOKEN")) or (_home() / "token").is_file()


def _home() -> Path:
    home = os.environ.get("HF_HOME")
    return Path(home or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface").expanduser()
