"""One round's training: the job, what it comes to, and the bench on which the base model stays warm."""

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
    """One round's training. Everything in it is the site's own or was checked by it."""

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
    next_residual: Path  # where what the codec loses goes, if it does lose something
    codec: str = "fp32"
    residual: Path | None = None  # what it lost of the run's last committed update
    privacy: PrivateTerms | None = None
    home: Path | None = None  # the site's, where it keeps what is to be forgotten
    max_left_out: float = 1.0  # the policy's share of the rows


@dataclass(frozen=True)
class Progress:
    """A step was done."""

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
    """Training ended without an update. `died`: the process did, and may be tried again."""

    reason: str  # what others may know
    died: bool = False
    detail: str = ""  # for the site's own log alone: it may quote records


Event = Progress | Finished | Failed


class Workbench:
    """What stays warm from job to job: the base model with its adapter and task."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._learner: Learner | None = None

    def perform(self, job: Job, progress: Callable[[int, int], None]) -> Finished:
        """Train from the global adapter and write the difference to the job's output."""
        import torch

        from fedllm.models.codec import codec_named, decode_flat, encode_flat

        if job.threads is not None:
            torch.set_num_threads(job.threads)
        learner = self._warm(job)
        shared = learner.shared
        if shared.layout.sha256 != job.layout_sha256:
            raise TrainingError("the adapter's names and shapes here are not the plan's")
        if shared.frozen_sha256 != job.frozen_sha256:
            raise TrainingError("A as expanded here is not the plan's")
        before = decode_flat(job.model.read_bytes(), shared.layout.size)
        shared.write(before)
        told = _trained(learner, _records(job), job, progress)
        update = shared.read() - before
        if job.privacy is not None and job.privacy.unit == "site":
            from fedllm.training.site_level import hide_site

            update = hide_site(update, job.privacy)
        former = decode_flat(job.residual.read_bytes(), len(update)) if job.residual else None
        data, residual = codec_named(job.codec).encode(update, former)  # after the noise
        if residual is not None:
            write_when_room(job.next_residual, encode_flat(residual))
        write_when_room(job.output, data)
        return told

    def _warm(self, job: Job) -> "Learner":
        from fedllm.tasks.load import load_learner

        key = (job.base, job.adapter, job.adapter_seed, job.task.model_dump_json())
        if self._key != key or self._learner is None:
            self._learner = load_learner(job.base, job.adapter, job.adapter_seed, job.task)
            self._key = key
        return self._learner


def _records(job: Job) -> list[Record]:
    """The site's records but for those it was told to forget, and of each the fields that the plan needs.

    Rows that the task cannot read are never drawn. How many they are is for this site's own log alone.
    """
    from fedllm.data.minimise import needed_fields, only
    from fedllm.data.site_records import site_records

    found = site_records(job.data, job.task, job.home)
    if found.left_out:
        much = found.share > job.max_left_out  # under DP alone: elsewhere the plan was declined
        advice = (
            "; more than policy.max_left_out: the round goes on all the same, mend the file" if much else ""
        )
        level = logging.ERROR if much else logging.WARNING
        found.log(level, f"round {job.round}: {job.data}", advice)
    wanted = needed_fields(job.task, job.privacy.unit_field if job.privacy else None)
    return list(only((row.record for row in found.usable), wanted))


def _trained(
    learner: "Learner", records: Sequence[Record], job: Job, progress: Callable[[int, int], None]
) -> Finished:
    """Train as the job's privacy has it."""
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
    """A site's own seed for its batches, from the plan's: SHA-256 of both, its first 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{site}".encode()).digest()[:4], "big")


def failure(error: Exception) -> Failed:
    """How a training ended that raised: what others may know, and for the site's own log what happened."""
    if ran_out_of_memory(error):
        return Failed(TOO_MUCH)
    return Failed(public_reason(error), detail=one_line(str(error) or type(error).__name__))


def is_explained(error: Exception) -> bool:
    """Whether an error's own text says all that a site's owner needs; any other is a fault of the program."""
    return isinstance(error, FedllmError) or ran_out_of_memory(error)


def public_reason(error: Exception) -> str:
    """What others may know of a failure: never a record's id, label or path, which errors quote."""
    if ran_out_of_memory(error):
        return TOO_MUCH
    if isinstance(error, LedgerError):
        return "the site's privacy ledger does not let it take part; the site's own log says why"
    if isinstance(error, TrainingError | RefusedError):
        return str(error)  # these speak of tensors and messages alone
    if isinstance(error, DataError):
        return "the site's records do not fit the plan's task; the site's own log says which and why"
    return f"training failed: {type(error).__name__}; the site's own log says why"
