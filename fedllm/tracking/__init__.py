"""Record in MLflow: one parent run per training, one child run per round, one version per model.

Importing this package does not import MLflow; constructing a `Tracker` does.
"""

from fedllm.tracking.client import Tracker
from fedllm.tracking.release import PublishedVersion, RoundRelease

__all__ = ["PublishedVersion", "RoundRelease", "Tracker"]
