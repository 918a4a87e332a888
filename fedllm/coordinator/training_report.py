"""Write a training's report at its end: on the coordinator's disk and in MLflow."""

import logging
from pathlib import Path

from fedllm.coordinator.training import Training
from fedllm.journal.training_facts import training_facts

log = logging.getLogger(__name__)


def report_training(training: Training) -> None:
    """Write the report of an ended training. A failure is logged and does not affect the training."""
    try:
        page = _page(training)
        report_file(training).write_text(page, encoding="utf-8")
        if training.tracking_uri is not None:
            from fedllm.tracking import Tracker

            Tracker(training.tracking_uri).log_report(training.config.name, training.run, page)
    except Exception as error:  # noqa: BLE001 - a report must not fail a training
        log.warning("%s: %s; make the report with `fedllm report %s`", training.run, error, training.run)


def report_file(training: Training) -> Path:
    """Return the report's path on the coordinator's disk."""
    return training.folder / "report.html"


def _page(training: Training) -> str:
    from fedllm.report import render

    facts = training_facts(training.journal, training.run, dvc_lock_sha256=training.dvc_lock_sha256)
    return render(facts)
