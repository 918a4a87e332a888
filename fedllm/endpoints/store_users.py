"""The users of this machine's store: each has only the rights that it needs, and none is root."""

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedllm.endpoints.kept_secrets import kept_secrets
from fedllm.endpoints.stack_paths import StackPaths

BUCKET = "fedllm"
MLFLOW_BUCKET = "mlflow"  # separate: a user who can write there can run code in a served model

# The actions of `fedllm site add`, `revoke` and `doctor`. A user who may create policies and users can get
# every right, so the coordinator's worker is another user.
REGISTER = [
    "admin:AttachUserOrGroupPolicy",
    "admin:CreatePolicy",
    "admin:CreateUser",
    "admin:DeletePolicy",
    "admin:DeleteUser",
    "admin:GetPolicy",
    "admin:ListUserPolicies",
    "admin:ListUsers",
]

_draw = partial(secrets.token_urlsafe, 30)  # 40 characters


@dataclass(frozen=True)
class User:
    """A user of the store, with all rights to one bucket."""

    name: str
    bucket: str
    secret: str = field(repr=False)
    registers: bool = False  # whether it may create sites' users

    @property
    def policy(self) -> dict[str, Any]:
        """Policy with all rights to one bucket and none to others."""
        objects, bucket = f"arn:aws:s3:::{self.bucket}/*", f"arn:aws:s3:::{self.bucket}"
        statements: list[dict[str, Any]] = [
            {
                "Effect": "Allow",
                "Action": [
                    "s3:AbortMultipartUpload",
                    "s3:DeleteObject",
                    "s3:GetObject",
                    "s3:ListMultipartUploadParts",
                    "s3:PutObject",
                ],
                "Resource": [objects],
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                "Resource": [bucket],
            },
        ]
        # Without the Deny a user could grant itself any right: MinIO lets users administrate themselves.
        statements.append(
            {"Effect": "Allow", "Action": REGISTER}
            if self.registers
            else {"Effect": "Deny", "Action": ["admin:*"]}
        )
        return {"Version": "2012-10-17", "Statement": statements}


def users_with(coordinator: str, registrar: str, mlflow: str) -> list[User]:
    """Return the store's users with these secrets: coordinator, registrar, MLflow."""
    return [
        User("fedllm-coordinator", BUCKET, coordinator),
        User("fedllm-registrar", BUCKET, registrar, registers=True),
        User("fedllm-mlflow", MLFLOW_BUCKET, mlflow),
    ]


@dataclass(frozen=True)
class StoreSecrets:
    """The secret keys of the store's users; root has its own file."""

    coordinator: str = field(repr=False, default_factory=_draw)  # reads and writes the federations' bucket
    registrar: str = field(repr=False, default_factory=_draw)  # creates and removes sites' users
    mlflow: str = field(repr=False, default_factory=_draw)  # stores artifacts in a separate bucket

    def users(self) -> list[User]:
        """Return the store's users with these secrets."""
        return users_with(self.coordinator, self.registrar, self.mlflow)


def store_secrets(place: StackPaths) -> StoreSecrets:
    """Return the secrets, stored in a file of mode 600; generate them if it is missing.

    Raises:
        StackError: the file is damaged.
        IdentityError: others can read the file.
    """
    remedy = "delete it, then `fedllm down` and `fedllm up`"
    return kept_secrets(place, "store-users.json", StoreSecrets, StoreSecrets, remedy)
