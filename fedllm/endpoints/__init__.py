from fedllm.endpoints.addresses import Endpoints, endpoints

__all__ = ["Endpoints", "endpoints"]
