"""Postgres databases of the user for the stack's Prefect and MLflow, instead of SQLite files."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import ConfigError, StackError
from fedllm.secure.identity import read_private

VARIABLES = {"prefect": "FEDLLM_PREFECT_DATABASE_URL", "mlflow": "FEDLLM_MLFLOW_DATABASE_URL"}
_SCHEMES = {"prefect": "postgresql+asyncpg://", "mlflow": "postgresql+psycopg://"}


@dataclass(frozen=True)
class Databases:
    """Database URLs with passwords; None: a SQLite file in the stack's folder."""

    prefect: str | None = field(default=None, repr=False)
    mlflow: str | None = field(default=None, repr=False)


def databases(place: StackPaths, *, keep: bool = True) -> Databases:
    """Return the URLs from the environment, else the last ones, stored in a file of mode 600.

    An empty variable means SQLite.

    Args:
        place: the stack's place.
        keep: store the environment's URLs; only for the command that starts the servers.

    Raises:
        ConfigError: a URL is not of a Postgres with the driver that the server needs.
        StackError: the file is damaged.
    """
    path = _file(place)
    kept: dict[str, str | None] = {"prefect": None, "mlflow": None}
    if path.exists():
        try:
            kept |= asdict(Databases(**json.loads(read_private(path))))
        except (ValueError, TypeError):
            raise StackError(f"{path} is damaged: remove it, and name the databases again") from None
    current = Databases(
        **{name: database_url(name) if VARIABLES[name] in os.environ else kept[name] for name in VARIABLES}
    )
    if keep and asdict(current) != kept:
        remember(place, current)
    return current


def remember(place: StackPaths, urls: Databases) -> None:
    """Store the URLs that the next `up` uses unless the environment names others."""
    place.write_private(_file(place), json.dumps(asdict(urls), indent=1))


def database_url(name: str) -> str | None:
    """Return the environment's URL for "mlflow" or "prefect"; None if it is unset or empty.

    Raises:
        ConfigError: the URL is not of a Postgres with the driver that the server needs.
    """
    return _checked(name, os.environ.get(VARIABLES[name], ""))


def _file(place: StackPaths) -> Path:
    return place.folder / "databases.json"


def _checked(name: str, url: str) -> str | None:
    if not url:
        return None
    if not url.startswith(_SCHEMES[name]) or any(char in url for char in "\"'\n ,;#"):
        raise ConfigError(
            f"{VARIABLES[name]}: write {_SCHEMES[name]}USER:PASSWORD@HOST/DATABASE, and characters of a "
            "password other than letters and digits as %xx"
        )
    return url
