"""The memory of a training: how much it is, and how running out of it is told."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from fedllm.agent import limits
from fedllm.agent.job import public_reason
from fedllm.agent.limits import TOO_MUCH, holds_too_much, machine_memory, memory_limit, ran_out_of_memory
from fedllm.config import PolicyConfig
from fedllm.errors import DataError

GIB = 2**30


def test_the_policys_number_is_the_limit() -> None:
    assert memory_limit(PolicyConfig.model_validate({"max_memory": "6GiB"})) == 6 * GIB


def test_without_one_it_is_three_quarters_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "machine_memory", lambda: 16 * GIB)
    assert memory_limit(PolicyConfig()) == 12 * GIB


def test_a_containers_memory_is_less_than_its_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * GIB))
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr(limits, "_OWN_CGROUP", tmp_path / "own")
    assert machine_memory() == 64 * GIB  # where there are no cgroups
    (tmp_path / "own").write_text("1:memory:/old\n0::/agents/amazon\n")
    (tmp_path / "agents" / "amazon").mkdir(parents=True)
    (tmp_path / "agents" / "amazon" / "memory.max").write_text("max\n")
    (tmp_path / "agents" / "memory.max").write_text(f"{8 * GIB}\n")
    assert machine_memory() == 8 * GIB


def _allocated(size: int) -> Exception:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(size, dtype=torch.uint8)
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_is_told_in_one_line_without_a_number(error: Exception) -> None:
    assert public_reason(error) == TOO_MUCH


def test_so_is_torchs_own_error() -> None:
    assert public_reason(_allocated(2**55)) == TOO_MUCH


def test_so_is_an_error_that_came_from_it() -> None:
    wrapped = ValueError("record patient-4711")
    wrapped.__cause__ = MemoryError()
    assert ran_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [DataError("no field"), RuntimeError("shape mismatch"), OSError(2, "gone")])
def test_nothing_else_is(error: Exception) -> None:
    assert not ran_out_of_memory(error)


def test_where_the_kernel_does_not_hold_a_limit_the_agent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not holds_too_much(os.getpid(), 1) or not limits.KERNEL_HOLDS
    monkeypatch.setattr(limits, "KERNEL_HOLDS", False)
    assert holds_too_much(os.getpid(), 1)
    assert not holds_too_much(os.getpid(), 2**60)
    assert not holds_too_much(None, 1)
    assert not holds_too_much(2**22 + 1, 1)  # it has ended
