"""The users of this machine's store: each may do what it is for, and none of them is root."""

import secrets
from dataclasses import dataclass, field
from functools import partial

from fedllm.stack.kept_secrets import kept_secrets
from fedllm.stack.place import Place
from fedllm.stack.provision import User, users_with

_drawn = partial(secrets.token_urlsafe, 30)  # 40 characters


@dataclass(frozen=True)
class StoreSecrets:
    """The secret keys of the store's users; root has its own file."""

    coordinator: str = field(repr=False, default_factory=_drawn)  # reads and writes the federations' bucket
    registrar: str = field(repr=False, default_factory=_drawn)  # makes and removes sites' users
    mlflow: str = field(repr=False, default_factory=_drawn)  # keeps artifacts in a bucket of its own

    def users(self) -> list[User]:
        """The users to be."""
        return users_with(self.coordinator, self.registrar, self.mlflow)


def store_secrets(place: Place) -> StoreSecrets:
    """The secrets, kept in a file of mode 600 and drawn when there is none.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read it.
    """
    remedy = "delete it, then `fedllm down` and `fedllm up`"
    return kept_secrets(place, "store-users.json", StoreSecrets, StoreSecrets, remedy)
