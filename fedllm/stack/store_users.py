"""The users of this machine's store: each may do what it is for, and none of them is root."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from functools import partial

from fedllm.errors import StackError
from fedllm.secure.identity import read_private
from fedllm.stack.place import Place
from fedllm.stack.provision import User

BUCKET = "fedllm"
MLFLOW_BUCKET = "mlflow"  # apart: whoever writes there can have a served model run code of theirs

_drawn = partial(secrets.token_urlsafe, 30)  # 40 characters


@dataclass(frozen=True)
class StoreSecrets:
    """The secret keys of the store's users; root has its own file."""

    coordinator: str = field(repr=False, default_factory=_drawn)  # reads and writes the federations' bucket
    registrar: str = field(repr=False, default_factory=_drawn)  # makes and removes sites' users
    mlflow: str = field(repr=False, default_factory=_drawn)  # keeps artifacts in a bucket of its own

    def users(self) -> list[User]:
        """The users to be."""
        return [
            User("fedllm-coordinator", BUCKET, self.coordinator),
            User("fedllm-registrar", BUCKET, self.registrar, registers=True),
            User("fedllm-mlflow", MLFLOW_BUCKET, self.mlflow),
        ]


def store_secrets(place: Place) -> StoreSecrets:
    """The secrets, kept in a file of mode 600 and drawn when there is none.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read it.
    """
    path = place.folder / "store-users.json"
    if path.exists():
        try:
            kept = json.loads(read_private(path))
            return StoreSecrets(**{name: str(value) for name, value in kept.items()})
        except (ValueError, TypeError, AttributeError):
            raise StackError(f"{path} is damaged: delete it, then `fedllm down` and `fedllm up`") from None
    drawn = StoreSecrets()
    place.write_private(path, json.dumps(asdict(drawn), indent=1))
    return drawn
