"""Aggregate the sites' updates into the next global model."""

from fedllm.aggregation.combine import COMBINES, combined
from fedllm.aggregation.state import decode_state, encode_state
from fedllm.aggregation.strategies import apply_strategy
from fedllm.aggregation.weights import weight

__all__ = ["COMBINES", "apply_strategy", "combined", "decode_state", "encode_state", "weight"]
