"""A store whose folder was removed: `fedllm up` makes it anew, and the doctor says what happened."""

import pytest

from fedllm.doctor.servers import store_folder
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.stack import local
from tests.stack.conftest import PORTS, Running


class StoppedError(Exception):
    """The start of the servers was reached."""


def begun(monkeypatch: pytest.MonkeyPatch, control: type | None) -> list[str]:
    """What `up` says until it would make the store's volume."""

    def stop(*_: object) -> None:
        raise StoppedError

    said: list[str] = []
    Running.ended = False
    monkeypatch.setattr(local, "format_volume", stop)
    if control is not None:
        monkeypatch.setattr(local, "Control", control)
    with pytest.raises(StoppedError):
        local.up(progress=said.append)
    return said


@pytest.mark.parametrize("control", [Running, None])
def test_up_makes_it_anew_and_says_who_has_to_be_invited_again(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch, control: type | None
) -> None:
    place.create()
    StackState(ports=PORTS).save(place)
    [line] = [line for line in begun(monkeypatch, control) if "was removed" in line]
    assert str(place.minio) in line
    assert "Invite each site again with `fedllm site add CARD`" in line
    assert Running.ended is (control is Running)


def test_what_a_living_server_wrote_after_it_was_removed_is_put_aside(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.create()
    StackState(ports=PORTS).save(place)
    (place.minio / "blocks").mkdir()  # a volume is made in an empty folder alone
    [line] = [line for line in begun(monkeypatch, Running) if "its remaining files" in line]
    [aside] = place.minio.parent.glob("minio-remains-*")
    assert str(aside) in line
    assert (aside / "blocks").is_dir()
    assert not place.minio.exists()


def test_a_first_start_and_one_after_a_restore_say_nothing_of_it(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [line for line in begun(monkeypatch, None) if "was removed" in line]
    StackState(ports=PORTS).save(place)
    place.restored.touch()
    assert not [line for line in begun(monkeypatch, None) if "was removed" in line]


def test_the_doctor_names_the_folder_and_not_the_keys(place: StackPaths) -> None:
    place.create()
    [found] = store_folder(place)
    assert (found.status, found.remedy) == ("fail", "`fedllm up` creates it again, empty, with its users")
    (place.minio / "meta.db").touch()
    assert [one.status for one in store_folder(place)] == ["ok"]
