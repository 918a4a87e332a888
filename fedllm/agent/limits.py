"""Limit the memory of a training.

On Linux the kernel enforces the limit: RLIMIT_DATA counts private writable mappings, such as the heap,
torch's tensors and thread stacks, and makes the next allocation beyond it fail. RLIMIT_AS counts addresses:
CUDA reserves far more of them than there is memory, so it cannot start under such a limit. RLIMIT_DATA does
not count what CUDA reserves or shares with its device, nor memory on the device, where torch itself fails.
On other systems the kernel does not enforce these limits for mapped memory; there the agent checks the
process at every poll and ends it.
"""

import errno
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from fedllm.config import PolicyConfig

KERNEL_HOLDS = sys.platform == "linux"
TOO_MUCH = "the training needs more memory than this site's policy allows"
_SHARE = 0.75  # of the machine, if the policy sets no limit
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_TORCH = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "bad allocation",
    "bad_alloc",
)
_FIRST = "1000"  # oom_score_adj: if the machine runs out of memory, this process is killed first


def memory_limit(policy: PolicyConfig) -> int:
    """Return the bytes that a training may take: the policy's limit, else a share of the machine."""
    return int(_SHARE * machine_memory()) if policy.max_memory is None else policy.max_memory


def machine_memory() -> int:
    """Return the bytes available to this process: the machine's, or its cgroup's limit if that is less."""
    available = int(psutil.virtual_memory().total)
    with suppress(OSError, IndexError):
        own = _OWN_CGROUP.read_text(encoding="utf-8").split("0::/")[1].splitlines()[0]
        group = _CGROUPS / own
        while group.is_relative_to(_CGROUPS):
            with suppress(OSError, ValueError):  # `max` is no number
                available = min(available, int((group / "memory.max").read_text(encoding="utf-8")))
            group = group.parent
    return available


def bind_memory(memory: int) -> None:
    """Limit this process to `memory` bytes from now on, where the kernel enforces it."""
    if not KERNEL_HOLDS:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    with suppress(OSError):  # a container without a writable /proc
        Path("/proc/self/oom_score_adj").write_text(_FIRST, encoding="utf-8")


def holds_too_much(pid: int | None, memory: int) -> bool:
    """Return whether a process exceeds `memory` bytes; False where the kernel enforces the limit."""
    if KERNEL_HOLDS or pid is None:
        return False
    try:
        return bool(psutil.Process(pid).memory_info().rss > memory)
    except psutil.Error:  # it has ended
        return False


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes is an out-of-memory error, of the host or a device."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if type(error).__name__ == "OutOfMemoryError":  # torch's own, of a device
            return True
        if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _TORCH):
            return True
        error = error.__cause__ or error.__context__
    return False
