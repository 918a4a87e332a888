"""The link from a flow run to its training's report in MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.artifacts import create_link_artifact

from fedllm.coordinator.training import Training
from fedllm.errors import LeaseError
from fedllm.logs import about
from flows.tasks import unless_away


@contextmanager
def reported(training: Training) -> Iterator[None]:
    """Link the flow run to the report once the training in this block has ended, however it did."""
    with about(federation=training.config.name, run=training.run):
        try:
            yield
        except LeaseError:
            raise  # another coordinator leads: the report is its to make
        except Exception:
            unless_away(lambda: _link(training))
            raise
        unless_away(lambda: _link(training))


def _link(training: Training) -> None:
    if training.tracking_uri is None:
        return
    from fedllm.tracking import Tracker

    name, run = training.config.name, training.run
    create_link_artifact(
        key=f"{name}-report",
        link=Tracker(training.tracking_uri).report_address(name, run),
        link_text=f"Report of {run}",
        description=f"What {run} of {name} came to: quality, sites, privacy, decisions, provenance",
    )
