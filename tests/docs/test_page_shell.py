"""A page's shell keeps what was set, and says which block did not work."""

from pathlib import Path

import pytest
from page_blocks import Step
from page_shell import BlockError, Shell, page_environment

pytestmark = pytest.mark.servers


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, page_environment(tmp_path, tmp_path / "home"))


def block(text: str, language: str = "bash", line: int = 7) -> Step:
    return Step("page.md", line, "block", text, language)


def test_later_blocks_see_what_earlier_ones_set(shell: Shell) -> None:
    with shell:
        shell.run(block("A=set; cd /; false || true\n! false"))
        assert shell.run(block('echo "$A in $PWD"')) == "set in /\n"
        assert shell.run(block("print(6 * 7)", "python")) == "42\n"


@pytest.mark.parametrize(
    "text", ["false\ntrue", "false | true", "no-such-program", "exit 0", "if", "! true\ntrue"]
)
def test_a_command_that_fails_anywhere_in_a_block_fails_it_by_name(shell: Shell, text: str) -> None:
    with shell, pytest.raises(BlockError, match=r"page\.md:7 fails"):
        shell.run(block(text))


def test_a_python_block_that_raises_fails(shell: Shell) -> None:
    with shell, pytest.raises(BlockError, match="ZeroDivisionError"):
        shell.run(block("1 / 0", "python"))


def test_a_block_that_takes_too_long_fails(shell: Shell) -> None:
    with shell, pytest.raises(BlockError, match="more than"):
        shell.run(block("sleep 30"), timeout=0.5)


def test_what_runs_beside_ends_with_the_shell(shell: Shell, tmp_path: Path) -> None:
    with shell:
        shell.run(Step("page.md", 1, "beside", "echo $BASHPID > pid; while :; do sleep 0.1; done"))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            pass
        pid = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
