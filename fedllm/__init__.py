"""fedllm: organisations that may not share data fine-tune one language model together."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedllm.cli.run import run
    from fedllm.simulation import simulate
    from fedllm.versions import load_model

__all__ = ["load_model", "run", "simulate"]

_HOMES = {"load_model": "fedllm.versions", "run": "fedllm.cli.run", "simulate": "fedllm.simulation"}
_OF_COORDINATORS = {"load_model", "run"}  # these need Prefect or MLflow


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names
    """Import a public name on first use, so that `import fedllm` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedllm' has no attribute {name!r}")
    from importlib import import_module

    if name in _OF_COORDINATORS:
        from fedllm.extras import require

        require("coordinator", f"fedllm.{name}")
    return getattr(import_module(_HOMES[name]), name)
