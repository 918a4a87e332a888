"""One round's training: the job, its events, and the workbench that keeps the base model loaded."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.agent.folder import write_when_room
from fedllm.agent.limits import TOO_MUCH, ran_out_of_memory
from fedllm.config import AdapterConfig, LocalConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, FedllmError, LedgerError, RefusedError, TrainingError
from fedllm.protocol.terms import PrivateTerms
from fedllm.text import one_line

if TYPE_CHECKING:
    from fedllm.training.learner import Learner


@dataclass(frozen=True)
class Job:
    """One round's training. Every field is the site's own or was checked by the site."""

    base: Path  # folder of the base model
    data: Path  # JSON lines
    model: Path  # the global adapter's flat tensor
    output: Path  # where the encoded update goes
    adapter: AdapterConfig
    adapter_seed: int
    layout_sha256: str
    frozen_sha256: str
    task: TaskConfig
    local: LocalConfig
    steps: int
    round: int
    rounds: int
    seed: int  # the site's, for batches
    threads: int | None
    next_residual: Path  # where to write the codec's residual, if there is one
    codec: str = "fp32"
    residual: Path | None = None  # of the run's last committed update
    privacy: PrivateTerms | None = None
    home: Path | None = None  # the site's folder, which lists withdrawals
    max_left_out: float = 1.0  # the policy's share of the rows


@dataclass(frozen=True)
class StepDone:
    """A step is done."""

    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """The update is in the job's output file."""

    steps: int
    examples: int | None  # None under DP, as is the loss
    loss: float | None
    seconds: float


@dataclass(frozen=True)
class Failed:
    """Training ended without an update. `died`: the process died, and the job may be tried again."""

    reason: str  # what others may know
    died: bool = False
    detail: str = ""  # only for the site's own log: it may quote records


Event = StepDone | Finished | Failed


class Workbench:
    """Runs jobs, and keeps the base model with its adapter and task loaded between them."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._learner: Learner | None = None

    def perform(self, job: Job, progress: Callable[[int, int], None]) -> Finished:
        """Train from the global adapter, and write the encoded difference to the job's output."""
        import torch

        from fedllm.models.codec import codec_named, decode_flat, encode_flat

        if job.threads is not None:
            torch.set_num_threads(job.threads)
        learner = self._load(job)
        shared = learner.shared
        if shared.layout.sha256 != job.layout_sha256:
            raise TrainingError("the adapter's names and shapes here differ from the plan's")
        if shared.frozen_sha256 != job.frozen_sha256:
            raise TrainingError("the matrix A as expanded here differs from the plan's")
        before = decode_flat(job.model.read_bytes(), shared.layout.size)
        shared.write(before)
        finished = _trained(learner, _records(job), job, progress)
        update = shared.read() - before
        if job.privacy is not None and job.privacy.unit == "site":
            from fedllm.training.site_level import hide_site

            update = hide_site(update, job.privacy)
        former = decode_flat(job.residual.read_bytes(), len(update)) if job.residual else None
        data, residual = codec_named(job.codec).encode(update, former)  # after the noise
        if residual is not None:
            write_when_room(job.next_residual, encode_flat(residual))
        write_when_room(job.output, data)
        return finished

    def _load(self, job: Job) -> "Learner":
        from fedllm.tasks.load import load_learner

        key = (job.base, job.adapter, job.adapter_seed, job.task.model_dump_json())
        if self._key != key or self._learner is None:
            self._learner = load_learner(job.base, job.adapter, job.adapter_seed, job.task)
            self._key = key
        return self._learner


def _records(job: Job) -> list[Record]:
    """Return the site's records without withdrawn ones, each with only the fields that the plan needs.

    Rows that the task cannot read are never drawn. Their number goes only to this site's own log.
    """
    from fedllm.data.minimise import needed_fields, only
    from fedllm.data.site_records import site_records

    records = site_records(job.data, job.task, job.home)
    if records.left_out:
        too_many = records.share > job.max_left_out  # only under DP: otherwise the plan was declined
        advice = (
            "; more than policy.max_left_out: the round continues anyway, but fix the file"
            if too_many
            else ""
        )
        level = logging.ERROR if too_many else logging.WARNING
        records.log(level, f"round {job.round}: {job.data}", advice)
    fields = needed_fields(job.task, job.privacy.unit_field if job.privacy else None)
    return list(only((row.record for row in records.usable), fields))


def _trained(
    learner: "Learner", records: Sequence[Record], job: Job, progress: Callable[[int, int], None]
) -> Finished:
    """Train with the algorithm of the job's privacy unit."""
    if job.privacy is None or job.privacy.unit == "site":
        from fedllm.training.local import train

        done = train(
            learner,
            records,
            job.local,
            steps=job.steps,
            round_number=job.round,
            rounds=job.rounds,
            seed=job.seed,
            progress=progress,
        )
        return Finished(done.steps, done.examples, done.loss, done.seconds)
    from fedllm.training.dp import train_privately

    private = train_privately(
        learner,
        records,
        job.local,
        job.privacy,
        steps=job.steps,
        round_number=job.round,
        rounds=job.rounds,
        progress=progress,
    )
    return Finished(private.steps, None, None, private.seconds)


def site_seed(seed: int, site: str) -> int:
    """Return a site's seed for its batches: the first 32 bits of SHA-256 of the plan's seed and its name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{site}".encode()).digest()[:4], "big")


def failure(error: Exception) -> Failed:
    """Return the outcome of a training that raised: the public reason, and detail for the site's own log."""
    if ran_out_of_memory(error):
        return Failed(TOO_MUCH)
    return Failed(public_reason(error), detail=one_line(str(error) or type(error).__name__))


def is_explained(error: Exception) -> bool:
    """Return whether an error's text suffices for the site's owner; any other error is a bug."""
    return isinstance(error, FedllmError) or ran_out_of_memory(error)


def public_reason(error: Exception) -> str:
    """Return the public reason of a failure, without ids, labels or paths, which errors may quote."""
    if ran_out_of_memory(error):
        return TOO_MUCH
    if isinstance(error, LedgerError):
        return "the site's privacy ledger does not let it take part; the site's own log says why"
    if isinstance(error, TrainingError | RefusedError):
        return str(error)  # their texts are about tensors and messages only
    if isinstance(error, DataError):
        return "the site's records do not fit the plan's task; the site's own log says which and why"
    return f"training failed: {type(error).__name__}; the site's own log says why"
