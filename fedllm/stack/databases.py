"""Databases of one's own under the stack's Prefect and MLflow: Postgres in the place of SQLite files."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedllm.endpoints.place import Place
from fedllm.errors import ConfigError, StackError
from fedllm.secure.identity import read_private

VARIABLES = {"prefect": "FEDLLM_PREFECT_DATABASE_URL", "mlflow": "FEDLLM_MLFLOW_DATABASE_URL"}
_SCHEMES = {"prefect": "postgresql+asyncpg://", "mlflow": "postgresql+psycopg://"}


@dataclass(frozen=True)
class Databases:
    """Addresses with their passwords; None: a SQLite file in the stack's folder."""

    prefect: str | None = field(default=None, repr=False)
    mlflow: str | None = field(default=None, repr=False)


def databases(place: Place, *, keep: bool = True) -> Databases:
    """What the environment names, else what it named last: kept in a file of mode 600.

    An empty variable goes back to SQLite.

    Args:
        place: the stack's.
        keep: remember what the environment names; only who starts the servers may.

    Raises:
        ConfigError: an address is none of a Postgres with the driver that the server needs.
        StackError: the file is damaged.
    """
    path = _file(place)
    kept: dict[str, str | None] = {"prefect": None, "mlflow": None}
    if path.exists():
        try:
            kept |= asdict(Databases(**json.loads(read_private(path))))
        except (ValueError, TypeError):
            raise StackError(f"{path} is damaged: remove it, and name the databases again") from None
    found = Databases(
        **{name: named(name) if VARIABLES[name] in os.environ else kept[name] for name in VARIABLES}
    )
    if keep and asdict(found) != kept:
        remember(place, found)
    return found


def remember(place: Place, found: Databases) -> None:
    """Have the next `up` use these, where the environment names no others."""
    place.write_private(_file(place), json.dumps(asdict(found), indent=1))


def named(name: str) -> str | None:
    """What the environment names for "mlflow" or "prefect"; None: nothing, or SQLite.

    Raises:
        ConfigError: the address is none of a Postgres with the driver that the server needs.
    """
    return _checked(name, os.environ.get(VARIABLES[name], ""))


def _file(place: Place) -> Path:
    return place.folder / "databases.json"


def _checked(name: str, url: str) -> str | None:
    if not url:
        return None
    if not url.startswith(_SCHEMES[name]) or any(char in url for char in "\"'\n ,;#"):
        raise ConfigError(
            f"{VARIABLES[name]}: write {_SCHEMES[name]}USER:PASSWORD@HOST/DATABASE, and what is no letter "
            "or digit in a password as %xx"
        )
    return url
