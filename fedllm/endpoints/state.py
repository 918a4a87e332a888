"""The local stack's state between starts."""

import json
from dataclasses import asdict, dataclass, field
from typing import Self

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import StackError


@dataclass(frozen=True)
class StackState:
    """The ports, Prefect, deployments and security of a stack."""

    ports: dict[str, int] = field(default_factory=dict)  # by server: door, minio, prefect, mlflow
    external_prefect: str | None = None  # the user's own PREFECT_API_URL, if that one is used
    deployed: str = ""  # hash of the deployments that `up` registered last
    secure: bool = False  # TLS with passwords, until `fedllm up --no-secure`
    # No passwords, until `fedllm up --no-open`. None: started by an older fedllm, which had no passwords.
    open: bool | None = False

    @property
    def has_passwords(self) -> bool:
        """Whether this stack's Prefect and MLflow require passwords."""
        return self.secure or self.open is False

    def url(self, server: str) -> str:
        """Return the URL of a server of this stack: door, minio, prefect or mlflow."""
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.ports.get(server, 0)}"

    @property
    def own_prefect_url(self) -> str:
        """The API of this stack's own Prefect server."""
        return f"{self.url('prefect')}/api"

    @classmethod
    def load(cls, place: StackPaths) -> Self:
        """Load the state; empty for a stack that was never up. Raises `StackError` if the file is damaged."""
        try:
            with place.usable():
                return cls(**{"open": None, **json.loads(place.state.read_text(encoding="utf-8"))})
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError):
            raise StackError(f"{place.state} is damaged: `fedllm down`, delete it, `fedllm up`") from None

    def save(self, place: StackPaths) -> None:
        """Write the state."""
        place.write_private(place.state, json.dumps(asdict(self), indent=1))
