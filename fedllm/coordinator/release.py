"""Step 6, release: an MLflow version with its card and tags. MLflow being away queues it, no more."""

import json
import logging
from typing import TYPE_CHECKING, Any

from fedllm.auditing.ledgers import NOT_OBSERVABLE
from fedllm.coordinator.budget import budget, with_ledgers
from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.payloads import read_model
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
    """Queue the round's version and publish everything that waits, this one last."""
    from fedllm.tracking import RoundRelease

    if training.tracking_uri is None:
        return Released(queued=False)
    made = _describe(training, number, RoundRelease)
    queue_release(training.journal, training.run, number, made.to_json())
    publish_waiting(training)
    return released(training, number)


def released(training: Training, number: int) -> Released:
    """Where a round's version is now."""
    told = published(training.journal, training.run, number)
    if told is None:
        refused = training.journal.outcome(training.run, number, REFUSED, RefusedRelease)
        return Released(queued=training.tracking_uri is not None, refused=refused.reason if refused else None)
    version = json.loads(told)
    return Released(queued=False, name=version["name"], version=version["version"], uri=version["uri"])


def publish_waiting(training: Training) -> None:
    """Publish what is queued, in order. MLflow being away ends that; what it refuses is passed over.

    So is a release whose ledgers in this journal are no longer the ones that it names. A refusal is an error
    in the log once, and on record; the release is offered again the next time.
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
            log.warning("MLflow does not take round %d of %s, it stays queued: %s", number, run, error)
            return
        told = {"name": version.name, "version": version.version, "uri": version.uri}
        mark_released(training.journal, run, number, json.dumps(told))


def _note_refusal(training: Training, run: str, number: int, reason: str) -> None:
    def first() -> RefusedRelease:
        log.error("round %d of %s is kept, but cannot be published: %s", number, run, reason)
        return RefusedRelease(reason=reason)

    training.journal.once(run, number, REFUSED, RefusedRelease, first)


def finish_record(training: Training, summary: dict[str, Any]) -> None:
    """End the training's parent run in MLflow; MLflow being away leaves it open, no more."""
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
    cost, before = budget(training, number), baseline(training)
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
        baseline=dict(before.metrics),
        champion=dict(evaluated.champion) if evaluated.champion else None,
        site_rows=site_rows(training, number, audited),
        privacy=cost.privacy,
        budget=cost.rows,
        ledger_heads=cost.ledger_heads,
        answers=evaluated.answers.model_dump(mode="json") if evaluated.answers else None,
        zero_shot_answers=before.answers.model_dump(mode="json") if before.answers else None,
        prefect_flow_run=training.prefect_flow_run,
        dvc_lock_sha256=training.dvc_lock_sha256,
        metric=evaluated.metric,
    )


def site_rows(training: Training, number: int, audited: Audited) -> list[dict[str, Any]]:
    """One row a site: what it did, and what dp-audit found."""
    weights = {counted.site: counted.weight for counted in audited.counted}
    rows = []
    for verdict in audited.verdicts:
        step = f"remote-local-train {verdict.site}"
        did = training.journal.require(training.run, number, step, SiteOutcome)
        rows.append(
            {
                "site": verdict.site,
                "status": did.status,
                "counts": verdict.site in weights,
                "weight": weights.get(verdict.site),
                "steps": did.steps,
                "examples": did.examples,
                "loss": did.loss,
                "norm": verdict.norm,
                "seconds": did.seconds,
                "bytes": did.payload.sealed_bytes if did.payload else 0,
                "verdict": "accepted" if verdict.accepted else verdict.reason,
                "privacy": verdict.privacy,
                "not_observable": ", ".join(n for n, saw in verdict.checks.items() if saw == NOT_OBSERVABLE),
            }
        )
    return rows
