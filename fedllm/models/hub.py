"""Base models of a hub such as huggingface.co: whether it answers is known within seconds."""

import os
import re
import threading
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from fedllm.errors import ModelError

PATIENCE = 4.0  # s until a hub must answer; its client alone would try for half a minute
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja"]
_LOCAL = (
    "without a network name a folder that holds config.json, tokenizer.json and model.safetensors, or "
    "smollm2-135m"
)


def require_hub(name: str) -> None:
    """Make sure that a model is in the hub client's cache, or that the hub answers. Nothing is fetched.

    Args:
        name: a hub id, with @revision or without.

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
    """Fetch a model, or find it in the hub client's cache; returns its folder.

    Raises:
        ModelError: the hub does not answer in time, or has no such model.
    """
    require_hub(name)
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=_WANTED, etag_timeout=PATIENCE
        )
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds, all with the same cure
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"model.base: no folder, .gguf file or hub model {name!r} ({said}); {_LOCAL}"
        ) from None
    return Path(folder)


def hub_id(name: str) -> str | None:
    """The id that other tools know a base by; None for a folder, a file, or a name of fedllm's own."""
    path = Path(name).expanduser()
    if "/" not in name or path.exists() or path.suffix == ".gguf" or not _ID.fullmatch(name):
        return None
    return name.partition("@")[0]


def _cached(name: str) -> bool:
    """Whether any revision of a model is in the hub client's cache."""
    cache = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()
    repository = name.partition("@")[0].replace("/", "--")
    return any((cache / f"models--{repository}" / "snapshots").glob("*/config.json"))


def _refusal(repository: str) -> str | None:
    """Why a model cannot be had from the hub; None where it says nothing against it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return "it is not in the cache, and HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    failures: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            # The endpoint is the user's own, and http alone where a test or a mirror has no TLS.
            with urllib.request.urlopen(f"{endpoint}/api/models/{repository}", timeout=PATIENCE):  # noqa: S310  # nosec B310
                pass
        except urllib.error.HTTPError as answer:
            if answer.code >= HTTPStatus.INTERNAL_SERVER_ERROR or not _has_token():
                failures.append(f"does not have it (HTTP {answer.code})")
        except (OSError, ValueError) as error:
            failures.append(f"does not answer ({getattr(error, 'reason', error)})")
        done.set()

    # A name server may take longer than any limit of a connection: the thread is left behind.
    threading.Thread(target=ask, daemon=True, name="hub").start()
    if not done.wait(PATIENCE):
        return f"it is not in the cache, and {endpoint} does not answer within {PATIENCE:.0f} s"
    return f"it is not in the cache, and {endpoint} {failures[0]}" if failures else None


def _has_token() -> bool:
    """Whether the hub's client has a token, so that it may see what a question without one does not."""
    return bool(os.environ.get("HF_TOKEN")) or (_home() / "token").is_file()


def _home() -> Path:
    given = os.environ.get("HF_HOME")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface").expanduser()
