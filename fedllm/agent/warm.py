"""Start processes warm: fork them from a server that has loaded what training needs.

Importing torch, transformers, peft and opacus takes about nine seconds of a core. multiprocessing's
forkserver does it once: its server imports `fedllm.agent.preload`, loads a base model, starts no thread,
reads no data, and forks a process per request. The processes share its pages until they write to them.
"""

import multiprocessing
import os
import sys
from contextlib import suppress
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.forkserver import _forkserver
from pathlib import Path

WARM_BASE = "FEDLLM_WARM_BASE"  # in the server's environment alone: the folder of the base model to load
_PRELOAD = ["fedllm.agent.preload"]


def warm_context(base: Path | None = None) -> ForkServerContext | SpawnContext:
    """Begin to start the server without waiting for it, and return the context that starts processes.

    On systems other than Linux each process imports for itself: forking is not safe with their libraries.

    Args:
        base: folder of a base model that the server loads; ignored if the server already runs.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    if base is not None:
        os.environ[WARM_BASE] = str(base)
    try:
        _forkserver.ensure_running()
    finally:
        os.environ.pop(WARM_BASE, None)
    return context


def server_address() -> str | None:
    """Return the address of this process' server, for processes that it forks; None if there is none."""
    return getattr(_forkserver, "_forkserver_address", None)


def share_server(address: str | None) -> None:
    """Let a forked process use the server that it came from, instead of starting its own.

    multiprocessing documents that it does so, but up to Python 3.13 it does not.
    """
    if address is not None:
        vars(_forkserver).update(_forkserver_address=address, ensure_running=lambda: None)


def name_process(name: str) -> None:
    """Set the name of a forked process in ps and top; Linux keeps 15 characters."""
    with suppress(OSError):  # there is no /proc
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
