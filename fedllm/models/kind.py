"""Which kind of model a folder holds, told without loading it."""

import json
from pathlib import Path

IMAGES = "fedllm-vision"  # config.json's model_type of an image model


def is_vision(folder: Path) -> bool:
    """Whether a folder holds an image model of fedllm."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("model_type") == IMAGES
