"""A small disk that a test can fill to the last byte: a tmpfs of its own, so that ENOSPC is the kernel's.

Where the system lets a user have a mount namespace, the disk is in one; else root, or sudo without a
password, mounts it. One of these there must be: otherwise the test fails, it is never skipped.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

BALLAST = "ballast"


@contextmanager
def small_disk(folder: Path, megabytes: int = 48) -> Iterator[list[str]]:
    """Have a small disk under `folder`; yields what a command begins with to see it."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    hold = ["unshare", "-rm", "sh", "-c", '"$@" && echo ready && exec sleep 1800', "sh", *mount]
    holder = subprocess.Popen(hold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        if holder.stdout.readline() == "ready\n":
            yield ["nsenter", "--preserve-credentials", "-U", "-m", "-t", str(holder.pid)]
            return
    finally:
        holder.kill()
        holder.wait()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount[4] += f",uid={os.getuid()},gid={os.getgid()}"
    done = subprocess.run([*root, *mount], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(
            f"no small disk can be made: allow user namespaces, or sudo without a password ({done.stderr})"
        )
    try:
        yield []
    finally:
        subprocess.run([*root, "umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Write until the disk that holds `folder` has no byte left; it must be a small one."""
    assert psutil.disk_usage(str(folder)).total < 1 << 27, f"{folder} is on no small disk"
    with (folder / BALLAST).open("wb", buffering=0) as ballast:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                continue
    assert psutil.disk_usage(str(folder)).free == 0


def make_space(inside: list[str], folder: Path) -> None:
    """Take the ballast away again."""
    subprocess.run([*inside, "rm", str(folder / BALLAST)], check=True)
