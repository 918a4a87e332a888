"""Processes that start warm: forked from a server that has loaded what training needs.

Importing torch, transformers, peft and opacus takes about nine seconds of a core. multiprocessing's
forkserver does it once: its server imports `fedllm.agent.preload`, starts no thread, reads no data, and
forks a process whenever one is asked for. The processes share its pages until they write to them. A process
that such a process starts comes from the same server.
"""

import multiprocessing
import sys
from contextlib import suppress
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

_PRELOAD = ["fedllm.agent.preload"]


def warm_context() -> ForkServerContext | SpawnContext:
    """The way to start processes here, with the server's start begun and not waited for.

    Elsewhere than on Linux each process imports for itself: forking is not safe with the system's libraries.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ensure_running()
    return context


def name_process(name: str) -> None:
    """Have ps and top show a forked process by its own name, of which Linux keeps 15 characters."""
    with suppress(OSError):  # there is no /proc
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
