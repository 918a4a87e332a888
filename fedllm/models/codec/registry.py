"""The codecs that this release knows, by the names that plans use."""

from collections.abc import Mapping

from fedllm.errors import ConfigError
from fedllm.models.codec import fp16, fp32
from fedllm.models.codec.contract import Codec

CODECS: Mapping[str, Codec] = {"fp32": fp32, "fp16": fp16}


def codec_named(name: str) -> Codec:
    """Return a codec by its name. Raises `ConfigError` with the known ones for any other name."""
    codec = CODECS.get(name)
    if codec is None:
        raise ConfigError(f"codec {name!r} is not known: use {' or '.join(CODECS)}")
    return codec
