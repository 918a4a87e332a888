"""The only access to MLflow: publish a round, finish a training, find the best version.

Nothing here uses MLflow's active run or its global address, so it works from any thread. Each write is
keyed by (run, round, SHA-256) and searched for before it is created: publishing again after a crash at any
point leaves one run and one version.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedllm.errors import IdentityError
from fedllm.secure.identity import Identity
from fedllm.tracking import registry, runs
from fedllm.tracking.connection import answering, connect
from fedllm.tracking.package import check_adapter
from fedllm.tracking.registry import registered
from fedllm.tracking.release import PublishedVersion, RoundRelease

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

REPORT = "report.html"
STATUS = {"completed": "FINISHED", "cancelled": "KILLED", "failed": "FAILED"}


class Tracker:
    """Read and write the record at one MLflow server.

    Args:
        uri: tracking and registry server, such as `http://127.0.0.1:5000`.
        signer: the coordinator's identity, which signs each version; None for read-only use.
    """

    def __init__(self, uri: str, signer: Identity | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.signer = signer
        self.client = connect(self.uri)

    def publish(self, release: RoundRelease) -> PublishedVersion:
        """Record a round, register its model and sign the version; a second call returns the same version.

        Raises:
            IdentityError: there is no signer.
            TrackingError: MLflow does not answer; call again later with the same release.
            RecordRefusedError: MLflow refuses this release; it may still accept others.
            ModelError: the release's adapter folder is incomplete.
        """
        check_adapter(release.adapter_folder)
        signer = self._signer()
        with answering(self.uri):
            experiment_id = runs.experiment(self.client, release.federation)
            parent = runs.training(self.client, experiment_id, release.run, release.config)
            run_id = runs.round_run(self.client, experiment_id, parent, release).info.run_id
            registry.ensure_model(self.client, release.federation)
            version = registry.find_version(self.client, release, run_id)
            if version is None or not registry.is_signed(version, signer):
                logged, hashes = registry.uploaded_model(self.client, experiment_id, release, run_id)
                version = version or self._register(release, logged, run_id)
                registry.sign_version(self.client, release, str(version.version), hashes, signer)
            self._challenge(release, version)
            self.client.set_terminated(run_id, "FINISHED")
        return _published(release.federation, version)

    def is_signed(self, federation: str, number: str) -> bool:
        """Return whether a version's record verifies with the signer's current keys; its files are not read.

        Raises:
            IdentityError: there is no signer.
            ReviewError: MLflow has no such version.
            TrackingError: MLflow does not answer.
        """
        signer = self._signer()
        with answering(self.uri):
            return registry.is_signed(registered(self.client, federation, number), signer)

    def sign_again(self, release: RoundRelease, number: str) -> None:
        """Sign a registered version and upload its files again from this machine's disk.

        Args:
            release: the version's release from the journal, with its adapter folder on this disk.
            number: the version's number from the journal.

        Raises:
            IdentityError: there is no signer.
            ReviewError: MLflow has no such version.
            TrackingError: MLflow does not answer.
            ModelError: the release's adapter folder is incomplete.
        """
        check_adapter(release.adapter_folder)
        signer = self._signer()
        with answering(self.uri):
            version = registered(self.client, release.federation, number)
            experiment_id = runs.experiment(self.client, release.federation)
            _, hashes = registry.uploaded_model(self.client, experiment_id, release, str(version.run_id))
            registry.sign_version(self.client, release, number, hashes, signer)

    def finish(self, federation: str, run: str, summary: Mapping[str, Any]) -> None:
        """End a training's parent run.

        Args:
            federation: name of the federation.
            run: id of the training; its parent run is created here if it published nothing.
            summary: JSON; `status` is completed, cancelled or failed, `config` the federation's. It is
                stored as `summary.json`; top-level numbers become metrics named `final.…`.

        Raises:
            TrackingError: MLflow does not answer or refuses.
        """
        with answering(self.uri):
            experiment_id = runs.experiment(self.client, federation)
            run_id = runs.training(self.client, experiment_id, run, summary.get("config", {})).info.run_id
            self.client.log_dict(run_id, dict(summary), "summary.json")
            runs.log_final(self.client, run_id, summary)
            status = str(summary.get("status", "completed")).lower()
            self.client.set_tag(run_id, "fed.status", status)
            if reason := summary.get("stop_reason"):
                self.client.set_tag(run_id, "fed.stop_reason", str(reason))
            self.client.set_terminated(run_id, STATUS.get(status, "FAILED"))

    def log_report(self, federation: str, run: str, page: str) -> None:
        """Store a training's report (HTML) as the artifact `report.html` of its parent run.

        Raises:
            TrackingError: MLflow does not answer or refuses.
        """
        with answering(self.uri):
            run_id = self._parent(federation, run)
            self.client.log_text(run_id, page, REPORT)

    def report_address(self, federation: str, run: str) -> str:
        """Return the URL of a training's report in MLflow's UI.

        Raises:
            TrackingError: MLflow does not answer.
        """
        with answering(self.uri):
            experiment_id = runs.experiment(self.client, federation)
            run_id = self._parent(federation, run)
        return f"{self.uri}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{REPORT}"

    def best(self, federation: str, run: str) -> PublishedVersion | None:
        """Return a training's best version by its main metric, the first if several are equal.

        Raises:
            TrackingError: MLflow does not answer.
        """
        with answering(self.uri):
            version = self._best(federation, run)
        return _published(federation, version) if version else None

    def champion_metrics(self, name: str) -> dict[str, float] | None:
        """Return the metrics of the version with the alias `champion`, or None if there is none.

        Raises:
            TrackingError: MLflow does not answer.
        """
        from mlflow.exceptions import MlflowException

        with answering(self.uri):
            try:
                version = self.client.get_model_version_by_alias(name, registry.CHAMPION)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                raise
            return registry.numbers(version.tags, registry.EVAL)

    def _signer(self) -> Identity:
        if self.signer is None:
            raise IdentityError("registering a version needs its coordinator's signature: give its keys")
        return self.signer

    def _parent(self, federation: str, run: str) -> str:
        experiment_id = runs.experiment(self.client, federation)
        return str(runs.training(self.client, experiment_id, run, {}).info.run_id)

    def _register(self, release: RoundRelease, logged: "LoggedModel", run_id: str) -> "ModelVersion":
        return registry.create_version(self.client, release, logged, run_id)

    def _best(self, federation: str, run: str) -> "ModelVersion | None":
        of_run = registry.versions(self.client, federation, f" and tag.`fed.run` = '{run}'")
        return registry.best_version(of_run)

    def _challenge(self, release: RoundRelease, version: "ModelVersion") -> None:
        """Point `challenger` at the best version of the release's training.

        If it already points at a version of this training, that is the best so far: no other is read.
        """
        name = release.federation
        alias = self.client.get_registered_model(name).aliases.get(registry.CHALLENGER)
        current = self.client.get_model_version(name, alias) if alias is not None else None
        if current is not None and current.tags.get("fed.run") == release.run:
            best = registry.best_version([current, version])
        else:
            best = self._best(name, release.run)
        if best is not None and str(best.version) != str(alias):
            self.client.set_registered_model_alias(name, registry.CHALLENGER, best.version)


def _published(name: str, version: "ModelVersion") -> PublishedVersion:
    number = str(version.version)
    return PublishedVersion(name, number, f"models:/{name}/{number}", str(version.run_id))
