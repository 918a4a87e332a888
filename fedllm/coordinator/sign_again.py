"""Sign versions that MLflow has without a signature, or with one by the coordinator's former keys.

The signed files come from this coordinator's journal and disk and are uploaded again, so files that were in
the artifact store are never signed.
"""

import dataclasses
import hashlib
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fedllm.config import FederationConfig
from fedllm.coordinator.members import coordinator_fingerprint, coordinator_identity
from fedllm.errors import IdentityError, ModelError, RecordRefusedError, RefusedError, ReviewError
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.journal.release_queue import PublishedRelease, published_releases
from fedllm.journal.runs import find_run

if TYPE_CHECKING:
    from fedllm.tracking import RoundRelease, Tracker


@dataclass(frozen=True)
class Signed:
    """The result of signing a federation's versions, by version number."""

    signed: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)  # their records were valid
    left: dict[str, str] = field(default_factory=dict)  # not signed, with the reason


def sign_versions(config: FederationConfig, tracking_uri: str, only: str | None = None) -> Signed:
    """Sign all versions that this journal has published and whose records are not valid.

    A single version is uploaded and signed even if its record is valid: its files may have been changed.

    Args:
        config: the federation.
        tracking_uri: MLflow's address.
        only: the number of one version; None: all.

    Raises:
        IdentityError: this machine is not the coordinator.
        ReviewError: this journal has published no such version.
        TrackingError: MLflow does not answer.
    """
    from fedllm.tracking import Tracker

    if coordinator_fingerprint(config.name) is None:
        raise IdentityError(
            f"this machine has no coordinator keys for {config.name}: sign at the coordinator"
        )
    done = Signed()
    with closing(Journal(config.name)) as journal:
        tracker = Tracker(tracking_uri, coordinator_identity(config.name))
        chosen = [row for row in published_releases(journal) if only in {None, row.version}]
        if only is not None and not chosen:
            raise ReviewError(f"this coordinator's journal has no published version {only} of {config.name}")
        for row in chosen:
            try:
                if only is None and tracker.is_signed(config.name, row.version):
                    done.valid.append(row.version)
                else:
                    _sign(journal, tracker, row)
                    done.signed.append(row.version)
            except (ModelError, RecordRefusedError, RefusedError, ReviewError) as error:
                done.left[row.version] = str(error)
    return done


def _sign(journal: Journal, tracker: "Tracker", row: PublishedRelease) -> None:
    from fedllm.tracking import RoundRelease
    from fedllm.tracking.package import model_files

    release = RoundRelease.from_json(row.body)
    # Not `release.adapter_folder`: a restored home may be in another place.
    folder = coordinator_folder(journal.federation) / "runs" / row.run
    adapter = folder / f"round-{row.round}"
    if all((adapter / name).is_file() for name in model_files(adapter)):
        tracker.sign_again(dataclasses.replace(release, adapter_folder=str(adapter)), row.version)
        return
    with TemporaryDirectory(prefix="fedllm-sign-") as scratch:
        _rebuild(journal, release, folder / f"{release.model_sha256}.model", Path(scratch))
        tracker.sign_again(dataclasses.replace(release, adapter_folder=scratch), row.version)


def _rebuild(journal: Journal, release: "RoundRelease", model: Path, out: Path) -> None:
    """Write a round's adapter from the flat model whose hash is in the journal."""
    from fedllm.models.base import resolve_base
    from fedllm.models.codec import decode_flat
    from fedllm.models.folder import fingerprint
    from fedllm.tasks.load import load_learner

    row = find_run(journal, release.run)
    if row is None or not model.is_file():
        raise ModelError(f"the adapter of round {release.round} of {release.run} is no longer on this disk")
    data = model.read_bytes()
    if hashlib.sha256(data).hexdigest() != release.model_sha256:
        raise ModelError(f"{model} is damaged: restore it from your backup")
    config = FederationConfig.model_validate_json(row.config)
    base = resolve_base(config.model.base)
    if fingerprint(base) != release.base_sha256:
        raise ModelError(f"the base model {config.model.base} here is not the one that {release.run} trained")
    shared = load_learner(base, config.model.adapter, config.seed, config.task).shared
    shared.write(decode_flat(data, shared.layout.size))
    shared.save(out, base=config.model.base)
