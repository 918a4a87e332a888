"""Link a flow run to its training's report in MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import create_link_artifact

from fedllm.coordinator.training import Training
from fedllm.errors import LeaseError
from fedllm.logs import about
from flows.tasks import best_effort


@contextmanager
def reported(training: Training) -> Iterator[None]:
    """Link the flow run to the report when the training in the block ends, also after an exception."""
    with about(federation=training.config.name, run=training.run):
        try:
            yield
        except LeaseError:
            raise  # another coordinator leads and makes the report
        except Exception:
            best_effort(lambda: _link(training))
            raise
        best_effort(lambda: _link(training))


def _link(training: Training) -> None:
    if training.tracking_uri is None:
        return
    from fedllm.tracking import Tracker

    name, run = training.config.name, training.run
    create_link_artifact(
        key=f"{name}-report",
        link=Tracker(training.tracking_uri).report_address(name, run),
        link_text=f"Report of {run}",
        description=f"Report of {run} of {name}: quality, sites, privacy, decisions, provenance",
    )
