from fedllm.stack.local import down, up

__all__ = ["down", "up"]
