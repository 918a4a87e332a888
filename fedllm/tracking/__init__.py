"""MLflow as the record: a parent run a training, a child run a round, a registered version a model.

Importing this package does not import MLflow; constructing a `Tracker` does.
"""

from fedllm.tracking.client import Tracker
from fedllm.tracking.release import PublishedVersion, RoundRelease

__all__ = ["PublishedVersion", "RoundRelease", "Tracker"]
