from fedllm.stack.addresses import Endpoints, endpoints
from fedllm.stack.local import down, up

__all__ = ["Endpoints", "down", "endpoints", "up"]
