"""Write the provenance of a wheel to stdout, as an SLSA statement (https://slsa.dev/spec/v1.0/provenance).

    python infra/provenance.py WHEEL

The statement is the builder's own claim and unsigned: who distributes the wheel signs it with their own key.
"""

import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUILD_TYPE = "https://packaging.python.org/en/latest/specifications/binary-distribution-format/"


def statement(wheel: Path) -> dict[str, Any]:
    """Return the provenance statement of a wheel.

    Args:
        wheel: the file, built from this checkout.

    Raises:
        subprocess.CalledProcessError: this is not a git checkout.
    """
    commit = _git("rev-parse", "HEAD")
    inputs = [
        {"uri": "git+file:.", "digest": {"gitCommit": commit}},
        *(
            {"uri": name, "digest": {"sha256": _sha256(ROOT / name)}}
            for name in ("constraints.txt", "pyproject.toml")
        ),
    ]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": wheel.name, "digest": {"sha256": _sha256(wheel)}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"commit": commit, "changed": sorted(_changed())},
                "internalParameters": {"python": platform.python_version(), "uv": version("uv")},
                "resolvedDependencies": inputs,
            },
            "runDetails": {"builder": {"id": "make release"}},
        },
    }


def _changed() -> set[str]:
    """Return the files that differ from the commit; a release has none."""
    return {line[3:] for line in _git("status", "--porcelain").splitlines()}


def _git(*arguments: str) -> str:
    command = ["git", *arguments]  # from the PATH, as in the Makefile
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)  # nosec B607
    return done.stdout.rstrip()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    json.dump(statement(Path(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
