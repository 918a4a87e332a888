from pathlib import Path

import pytest

from fedllm.agent.memory import Memory
from fedllm.errors import RefusedError


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory.db")


def test_high_water_marks_stand_still_or_rise_and_survive_the_process(tmp_path: Path, memory: Memory) -> None:
    memory.rise("epoch", 3)
    memory.rise("epoch", 3)
    memory.close()
    again = Memory(tmp_path / "memory.db")
    with pytest.raises(RefusedError, match="epoch 2 is below 3"):
        again.rise("epoch", 2)
    assert again.value("epoch") == 3


def test_work_moves_from_reserved_to_committed_to_released(memory: Memory) -> None:
    memory.reserve("run", 1, "a" * 64, b"answer", declined=False)
    memory.commit("run", 1, b"update", "{}")
    assert [work.update for work in memory.committed()] == [b"update"]
    memory.release("run", 1)
    assert memory.committed() == []
    work = memory.work("run", 1)
    assert work is not None
    assert (work.state, work.answer, work.update) == ("released", b"answer", b"update")


def test_an_update_is_made_once(memory: Memory) -> None:
    memory.reserve("run", 1, "a" * 64, b"answer", declined=False)
    memory.commit("run", 1, b"update", None)
    with pytest.raises(RefusedError, match="made already"):
        memory.commit("run", 1, b"another", None)
    work = memory.work("run", 1)
    assert work is not None
    assert work.update == b"update"


def test_nothing_is_released_that_was_not_committed(memory: Memory) -> None:
    memory.reserve("run", 1, "a" * 64, b"answer", declined=False)
    with pytest.raises(RefusedError, match="no update to release"):
        memory.release("run", 1)


def test_declined_work_is_never_trained(memory: Memory) -> None:
    memory.reserve("run", 1, "a" * 64, b"answer", declined=True)
    with pytest.raises(RefusedError, match="is declined"):
        memory.commit("run", 1, b"update", None)


def test_reserved_work_that_is_given_up_is_never_trained_and_nothing_else_can_be(memory: Memory) -> None:
    for number in (1, 2):
        memory.reserve("run", number, "a" * 64, b"answer", declined=False)
    memory.reserve("run", 3, "a" * 64, b"answer", declined=True)
    memory.commit("run", 2, b"update", "{}")
    memory.give_up("run", 1)
    for number in (1, 2, 3):
        with pytest.raises(RefusedError, match="cannot be given up"):
            memory.give_up("run", number)
    with pytest.raises(RefusedError, match="is released"):
        memory.commit("run", 1, b"update", "{}")
    assert memory.reserved() == []
    assert [work.round for work in memory.committed()] == [2]
    assert (memory.tally().failed, memory.tally().sent) == (1, 0)
