"""The base class and the field types of all configurations."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"  # used as is in object keys, IAM policies and MLflow names

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: object) -> object:
    """Read `15m`, `90s`, `1.5h` as seconds; numbers are seconds already."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|m|h|d)?\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is no duration: write 90s, 15m or 2h")
        return float(match[1]) * _SECONDS[match[2] or "s"]
    return value


_BYTES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _bytes(value: object) -> object:
    """Read `512MiB`, `6GiB`, `1.5 GiB` as bytes; whole numbers are bytes already."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(|B|[KMGT]iB)\s*", value)
        if match is None:
            raise ValueError(f"{value!r} is no number of bytes: write 512MiB, 6GiB or 1.5GiB")
        return int(float(match[1]) * _BYTES[match[2]])
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Name = Annotated[str, Field(pattern=NAME)]
DATASET_ID = r"^[A-Za-z0-9._-]{1,100}$"
DatasetId = Annotated[str, Field(pattern=DATASET_ID)]  # the name that an owner gives its data set

PATTERNS = {  # the rule of each pattern in words
    NAME: "use small letters, digits and hyphens, a letter or digit first, 63 at most",
    DATASET_ID: "use letters, digits, dots, hyphens and underscores, 100 at most",
}


class Frozen(BaseModel):
    """Base of all parts of a configuration: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
