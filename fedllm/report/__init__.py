"""One self-contained HTML page a training."""

from fedllm.report.page import render

__all__ = ["render"]
