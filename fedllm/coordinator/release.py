"""Step 6, release: publish an MLflow version with its card and tags. Queue it while MLflow is unreachable."""

import json
import logging
from typing import TYPE_CHECKING, Any

from fedllm.auditing.ledgers import NOT_OBSERVABLE
from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.payloads import read_model
from fedllm.coordinator.release_privacy import budget, with_ledgers
from fedllm.coordinator.training import Training
from fedllm.errors import LedgerError, ModelError, RecordRefusedError, TrackingError
from fedllm.journal.outcomes import (
    REFUSED,
    Aggregated,
    Audited,
    Evaluated,
    RefusedRelease,
    Released,
    SiteOutcome,
)
from fedllm.journal.release_queue import mark_released, published, queue_release, waiting_releases
from fedllm.models.codec import decode_flat

if TYPE_CHECKING:
    from fedllm.tracking import RoundRelease

log = logging.getLogger(__name__)


def release(training: Training, number: int) -> Released:
    """Queue the round's version, publish the whole queue in order, and return where the version is."""
    from fedllm.tracking import RoundRelease

    if training.tracking_uri is None:
        return Released(queued=False)
    described = _describe(training, number, RoundRelease)
    queue_release(training.journal, training.run, number, described.to_json())
    publish_waiting(training)
    return released(training, number)


def released(training: Training, number: int) -> Released:
    """Return whether a round's version is queued, refused or published, and where."""
    record = published(training.journal, training.run, number)
    if record is None:
        refused = training.journal.outcome(training.run, number, REFUSED, RefusedRelease)
        return Released(queued=training.tracking_uri is not None, refused=refused.reason if refused else None)
    version = json.loads(record)
    return Released(queued=False, name=version["name"], version=version["version"], uri=version["uri"])


def publish_waiting(training: Training) -> None:
    """Publish queued releases in order; stop if MLflow is unreachable, and skip what it refuses.

    It also skips a release whose ledgers in this journal are not the ones that it names. A refusal is logged
    as an error once and recorded; the release is tried again next time.
    """
    from fedllm.tracking import RoundRelease, Tracker

    if training.tracking_uri is None:
        return
    tracker = Tracker(training.tracking_uri, training.mailbox.me)
    for run, number, body in waiting_releases(training.journal):
        try:
            version = tracker.publish(with_ledgers(training.journal, RoundRelease.from_json(body)))
        except (LedgerError, ModelError, RecordRefusedError) as error:
            _note_refusal(training, run, number, str(error))
            continue
        except TrackingError as error:
            log.warning("MLflow does not accept round %d of %s, it stays queued: %s", number, run, error)
            return
        location = {"name": version.name, "version": version.version, "uri": version.uri}
        mark_released(training.journal, run, number, json.dumps(location))


def _note_refusal(training: Training, run: str, number: int, reason: str) -> None:
    def first() -> RefusedRelease:
        log.error("round %d of %s is kept, but cannot be published: %s", number, run, reason)
        return RefusedRelease(reason=reason)

    training.journal.once(run, number, REFUSED, RefusedRelease, first)


def finish_record(training: Training, summary: dict[str, Any]) -> None:
    """End the training's parent run in MLflow; if MLflow is unreachable, log it and leave the run open."""
    from fedllm.tracking import Tracker

    if training.tracking_uri is None:
        return
    try:
        Tracker(training.tracking_uri).finish(training.config.name, training.run, summary)
    except TrackingError as error:
        log.warning("MLflow's run of %s stays open: %s", training.run, error)


def _describe(training: Training, number: int, kind: "type[RoundRelease]") -> "RoundRelease":
    journal, run, config = training.journal, training.run, training.config
    aggregated = journal.require(run, number, "aggregate", Aggregated)
    evaluated = journal.require(run, number, "evaluate", Evaluated)
    audited = journal.require(run, number, "dp-audit", Audited)
    cost, zero_shot = budget(training, number), baseline(training)
    shared = training.learner().shared
    shared.write(decode_flat(read_model(training, aggregated.model), shared.layout.size))
    folder = training.folder / f"round-{number}"
    shared.save(folder, base=config.model.base)
    return kind(
        federation=config.name,
        run=run,
        round=number,
        sites=tuple(counted.site for counted in audited.counted),
        model_sha256=aggregated.model.sha256,
        base_name=config.model.base,
        base_sha256=training.base[1],
        adapter_folder=str(folder),
        task=config.task.model_dump(mode="json"),
        config=config.public_json(),
        metrics=dict(evaluated.metrics),
        baseline=dict(zero_shot.metrics),
        champion=dict(evaluated.champion) if evaluated.champion else None,
        site_rows=site_rows(training, number, audited),
        privacy=cost.privacy,
        budget=cost.rows,
        ledger_heads=cost.ledger_heads,
        answers=evaluated.answers.model_dump(mode="json") if evaluated.answers else None,
        zero_shot_answers=zero_shot.answers.model_dump(mode="json") if zero_shot.answers else None,
        prefect_flow_run=training.prefect_flow_run,
        dvc_lock_sha256=training.dvc_lock_sha256,
        metric=evaluated.metric,
    )


def site_rows(training: Training, number: int, audited: Audited) -> list[dict[str, Any]]:
    """Return one row per site: its work in the round, and the verdict of dp-audit."""
    weights = {counted.site: counted.weight for counted in audited.counted}
    rows = []
    for verdict in audited.verdicts:
        step = f"remote-local-train {verdict.site}"
        outcome = training.journal.require(training.run, number, step, SiteOutcome)
        rows.append(
            {
                "site": verdict.site,
                "status": outcome.status,
                "counts": verdict.site in weights,
                "weight": weights.get(verdict.site),
                "steps": outcome.steps,
                "examples": outcome.examples,
                "loss": outcome.loss,
                "norm": verdict.norm,
                "seconds": outcome.seconds,
                "bytes": outcome.payload.sealed_bytes if outcome.payload else 0,
                "verdict": "accepted" if verdict.accepted else verdict.reason,
                "privacy": verdict.privacy,
                "not_observable": ", ".join(n for n, saw in verdict.checks.items() if saw == NOT_OBSERVABLE),
            }
        )
    return rows
