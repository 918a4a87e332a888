"""From the sites' updates to the next global model."""

from fedllm.aggregation.mean import weighted_mean
from fedllm.aggregation.state import decode_state, encode_state
from fedllm.aggregation.strategies import apply_strategy
from fedllm.aggregation.weights import weight

__all__ = ["apply_strategy", "decode_state", "encode_state", "weight", "weighted_mean"]
