"""The users of this machine's store: each may do what it is for, and none of them is root."""

import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fedllm.endpoints.kept_secrets import kept_secrets
from fedllm.endpoints.place import Place

BUCKET = "fedllm"
MLFLOW_BUCKET = "mlflow"  # apart: whoever writes there can have a served model run code of theirs

# What `fedllm site add`, `revoke` and `doctor` do. Whoever may make policies and users
# can give himself every right: that is why the coordinator's worker is not this user.
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

_drawn = partial(secrets.token_urlsafe, 30)  # 40 characters


@dataclass(frozen=True)
class User:
    """A user of the store: the bucket that it has to itself, and whether it may make sites' users."""

    name: str
    bucket: str
    secret: str = field(repr=False)
    registers: bool = False

    @property
    def policy(self) -> dict[str, Any]:
        """All of one bucket, and nothing of any other."""
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
        # Who is not told otherwise may give himself any right: MinIO lets every user administrate itself.
        statements.append(
            {"Effect": "Allow", "Action": REGISTER}
            if self.registers
            else {"Effect": "Deny", "Action": ["admin:*"]}
        )
        return {"Version": "2012-10-17", "Statement": statements}


def users_with(coordinator: str, registrar: str, mlflow: str) -> list[User]:
    """The store's users with these secrets, in this order."""
    return [
        User("fedllm-coordinator", BUCKET, coordinator),
        User("fedllm-registrar", BUCKET, registrar, registers=True),
        User("fedllm-mlflow", MLFLOW_BUCKET, mlflow),
    ]


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
