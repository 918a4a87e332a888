"""Read and change the tags and aliases of a federation's versions in MLflow's registry."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedllm.config.home import fedllm_home, private_dir
from fedllm.review.version_facts import Aliases, read_aliases
from fedllm.tracking.connection import answering, connect
from fedllm.tracking.registry import CHAMPION, PREVIOUS, registered

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class ReviewEvent:
    """An event about a decision, for people and automations. Repeated, it has the same id."""

    kind: str  # fedllm.review.approved, .rejected, .refused or .rolled-back
    federation: str
    id: str  # a UUID
    payload: Mapping[str, Any]

    @property
    def resource(self) -> dict[str, str]:
        """Return the Prefect resource of the event."""
        return {
            "prefect.resource.id": f"fedllm.federation.{self.federation}",
            "prefect.resource.name": self.federation,
        }


@dataclass(frozen=True)
class Register:
    """The registered model of one federation at one MLflow server."""

    uri: str
    name: str
    client: "MlflowClient"

    @classmethod
    def at(cls, uri: str, name: str) -> "Register":
        """Return the register of a federation; sends no request to MLflow yet."""
        return cls(uri.rstrip("/"), name, connect(uri.rstrip("/")))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock of this machine's home: one decision at a time. MLflow itself has no lock.

        Raises:
            TrackingError: MLflow does not answer.
        """
        folder = private_dir(fedllm_home() / "locks")
        with (folder / f"review-{self.name}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with answering(self.uri):
                yield

    def aliases(self) -> Aliases:
        """Return the current aliases. Raises `ReviewError` if there is no such model."""
        return read_aliases(self.client, self.name)

    def tags(self, version: str) -> dict[str, str]:
        """Return a version's tags. Raises `ReviewError` if there is no such version."""
        return dict(registered(self.client, self.name, version).tags)

    def tag(self, version: str, wanted: Mapping[str, str | None]) -> None:
        """Set tags one by one in the given order; None removes one. Skips tags that need no change."""
        current = self.tags(version)
        for key, value in wanted.items():
            if value is None and key in current:
                self.client.delete_model_version_tag(self.name, version, key)
            elif value is not None and current.get(key) != value:
                self.client.set_model_version_tag(self.name, version, key, value)

    def model_tags(self) -> dict[str, str]:
        """Return the tags of the registered model itself."""
        return dict(self.client.get_registered_model(self.name).tags)

    def tag_model(self, key: str, value: str | None) -> None:
        """Set or remove one tag of the registered model itself."""
        if value is not None:
            self.client.set_registered_model_tag(self.name, key, value)
        elif key in self.model_tags():
            self.client.delete_registered_model_tag(self.name, key)

    def point_previous(self, version: str | None) -> None:
        """Point `previous` to a version; None removes the alias."""
        self._point(PREVIOUS, self.aliases().previous, version)

    def point_champion(self, version: str) -> None:
        """Point `champion` to a version."""
        self._point(CHAMPION, self.aliases().champion, version)

    def _point(self, alias: str, current: str | None, version: str | None) -> None:
        if current == version:
            return
        if version is None:
            self.client.delete_registered_model_alias(self.name, alias)
        else:
            self.client.set_registered_model_alias(self.name, alias, version)
