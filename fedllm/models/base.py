"""Base models: find by name, make a folder of safetensors, load memory-mapped."""

import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

from fedllm.config import cache_dir
from fedllm.errors import ModelError
from fedllm.models.convert import PACKAGED, from_gguf, from_wheel, once, short_reason
from fedllm.models.hub import from_hub, hub_id, require_hub
from fedllm.models.tiny import make_tiny

CausalModel: TypeAlias = Any  # transformers ships no types here: a PreTrainedModel, peft-wrapped or not
Tokenizer: TypeAlias = Any  # a PreTrainedTokenizerBase


# peft asks transformers for a name that will go: nobody who uses either can mend that.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

_TINY = "tiny"
_VISION = ("mnist-cnn", "mnist-scattering")  # for images


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
        return once("tiny-1", make_tiny)
    if name in _VISION:
        from fedllm.models.vision import make_vision

        return once(f"{name}-1", lambda folder: make_vision(folder, name))
    if name in PACKAGED:
        return from_wheel(name)
    if path.suffix == ".gguf":
        return from_gguf(path)
    return path.resolve() if path.is_dir() else _checked(from_hub(name))


def find_base(name: str) -> None:
    """Make sure that a base model can be had; nothing is converted, and nothing large is fetched.

    Raises:
        ModelError: it is not there, and what to do about it.
    """
    path = Path(name).expanduser()
    if name == _TINY or name in _VISION or name in PACKAGED:
        return
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"model.base: no file {path}")
    elif path.is_dir():
        _checked(path.resolve())
    elif name.startswith((".", "/", "~")):
        raise ModelError(f"model.base: no folder {path}")
    elif near := get_close_matches(name, (_TINY, *_VISION, *PACKAGED), n=1, cutoff=0.6):
        raise ModelError(
            f"model.base: no folder, .gguf file or known name {name!r}, did you mean {near[0]!r}?"
        )
    else:
        require_hub(name)


def public_name(name: str) -> tuple[str, str | None]:
    """What other tools know a base model by, and at which revision: a hub id where there is one.

    A folder or a file has no other name than its own, which leads to it on the machines that have it there.
    """
    if name in PACKAGED:
        return PACKAGED[name].hub, None
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
    own |= {known: f"{known}-{packaged.sha256[:16]}" for known, packaged in PACKAGED.items()}
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
        raise ModelError(f"{folder}: its tokenizer cannot be read: {short_reason(error)}") from None


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
        raise ModelError(f"{folder}: not a causal language model: {short_reason(error)}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.requires_grad_(requires_grad=False)
    return model.eval(), tokenizer


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: needs config.json, a tokenizer and *.safetensors weights")
    return folder
