"""Prefect's and MLflow's databases with their tables made and nothing in them, for stacks of tests.

To make the tables, a migration at a time, takes a fresh stack some seventeen seconds of a core. They are made
once for each release of both and kept in the cache; tests/stack has a first life that makes its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from fedllm.config import cache_dir
from fedllm.endpoints.stack_paths import StackPaths


def put_blank_databases(home: Path) -> None:
    """Have a stack of this home find its tables made."""
    made = _made()
    place = StackPaths(home.resolve())
    place.create()
    place.prefect_home.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(made / "prefect.db", place.prefect_home / "prefect.db")
    shutil.copyfile(made / "mlflow.db", place.folder / "mlflow.db")


def _made() -> Path:
    folder = cache_dir() / "tests" / f"blank-prefect-{version('prefect')}-mlflow-{version('mlflow')}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            draft = Path(tempfile.mkdtemp(dir=folder.parent))
            foreign = ("PREFECT_", "MLFLOW_")
            env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
            env |= {"PREFECT_HOME": str(draft), "DO_NOT_TRACK": "1"}
            for command in (
                ["prefect", "server", "database", "upgrade", "-y"],
                ["mlflow", "db", "upgrade", f"sqlite:///{draft / 'mlflow.db'}"],
            ):
                subprocess.run([sys.executable, "-m", *command], env=env, check=True, capture_output=True)
            draft.rename(folder)
    return folder
