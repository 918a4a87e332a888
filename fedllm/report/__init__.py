"""The report of a training: one self-contained HTML page."""

from fedllm.report.page import render

__all__ = ["render"]
