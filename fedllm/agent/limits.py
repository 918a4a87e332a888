"""How much memory a training may take, and how that is held.

On Linux the kernel holds it: RLIMIT_DATA counts what a process maps privately and may write to, such as the
heap, torch's tensors and the stacks of threads, and lets the next allocation fail beyond it. RLIMIT_AS counts
addresses: CUDA reserves far more of them than there is memory, so that no limit of that kind lets it start.
What CUDA reserves and what it shares with its device is not counted by RLIMIT_DATA, and neither is memory on
the device, where torch itself fails. Elsewhere than on Linux the kernel does not hold these limits for memory
that is mapped; there the agent looks at the process whenever it polls, and ends it.
"""

import errno
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from fedllm.config import PolicyConfig

KERNEL_HOLDS = sys.platform == "linux"
TOO_MUCH = "the training needs more memory than this site's policy allows"
_SHARE = 0.75  # of the machine, for a training where the policy names no number
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_TORCH = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "bad allocation",
    "bad_alloc",
)
_FIRST = "1000"  # oom_score_adj: should the whole machine run out, this process goes before all others


def memory_limit(policy: PolicyConfig) -> int:
    """Bytes that a training may take at this site: the policy's own, else a share of the machine."""
    return int(_SHARE * machine_memory()) if policy.max_memory is None else policy.max_memory


def machine_memory() -> int:
    """Bytes of memory that this process could have: the machine's, or its cgroup's if that is less."""
    found = int(psutil.virtual_memory().total)
    with suppress(OSError, IndexError):
        own = _OWN_CGROUP.read_text(encoding="utf-8").split("0::/")[1].splitlines()[0]
        group = _CGROUPS / own
        while group.is_relative_to(_CGROUPS):
            with suppress(OSError, ValueError):  # `max` is no number
                found = min(found, int((group / "memory.max").read_text(encoding="utf-8")))
            group = group.parent
    return found


def bind_memory(memory: int) -> None:
    """Have the kernel hold this process to so many bytes from here on, where it does such a thing."""
    if not KERNEL_HOLDS:
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    with suppress(OSError):  # a container without a writable /proc
        Path("/proc/self/oom_score_adj").write_text(_FIRST, encoding="utf-8")


def holds_too_much(pid: int | None, memory: int) -> bool:
    """Whether a process holds more than so many bytes, where the kernel does not see to it."""
    if KERNEL_HOLDS or pid is None:
        return False
    try:
        return bool(psutil.Process(pid).memory_info().rss > memory)
    except psutil.Error:  # it has ended
        return False


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there was no memory, here or on a device."""
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
