"""How updates and models become bytes; torch is loaded by what encodes or decodes, not before."""

from fedllm.models.codec.contract import Codec
from fedllm.models.codec.fp32 import decode_flat, encode_flat
from fedllm.models.codec.registry import CODECS, codec_named

__all__ = ["CODECS", "Codec", "codec_named", "decode_flat", "encode_flat"]
