"""What a new user types in the first hour: one line with what to do, and a true exit code."""

from pathlib import Path

import pytest
import yaml

from tests.cli.in_process import Done, fedllm

CONFIG = {
    "name": "harbours",
    "model": {"base": "tiny"},
    "task": {"kind": "text", "fields": {"text": "text"}},
    "evaluation": {"public": "public.jsonl"},
}
RULE = "use small letters, digits and hyphens, a letter or digit first, 63 at most"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a federation file, its public set, and a home of its own."""
    (tmp_path / "fed.yaml").write_text(
        yaml.safe_dump(CONFIG | {"store": {"url": f"file://{tmp_path}/store"}})
    )
    (tmp_path / "public.jsonl").write_text('{"text": "one"}\n')
    return tmp_path


def refused(place: Path, *arguments: str, code: int = 2) -> str:
    """The one line that a command which is refused writes."""
    done: Done = fedllm(*arguments, folder=place, FEDLLM_HOME=place / "home")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert done.stderr.startswith("fedllm: ")
    return done.stderr.removeprefix("fedllm: ").rstrip("\n")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("rounds.max=three", "--set rounds.max=three: must be a whole number, not 'three'"),
        ("rounds.max=1.5", "--set rounds.max=1.5: must be a whole number, not 1.5"),
        ("rounds.max=", "--set rounds.max=: must be a whole number, not nothing"),
        ("rounds.max=-1", "--set rounds.max=-1: must be greater than or equal to 1"),
        ("rouns.max=3", "--set rouns.max=3: unknown key 'rouns', did you mean 'rounds'?"),
        ("rounds.maxx=3", "--set rounds.maxx=3: unknown key 'rounds.maxx', did you mean 'max'?"),
        ("rounds.max", "--set 'rounds.max': write it as key.part=value, such as rounds.max=5"),
        ("rounds..max=3", "--set 'rounds..max=3': write it as key.part=value, such as rounds.max=5"),
        ("rounds=5", "--set rounds=5: must be a group of settings, not 5"),
        ("rounds.deadline=soon", "--set rounds.deadline=soon: 'soon' is no duration: write 90s, 15m or 2h"),
        ("rounds.max=2026-13-45", "--set rounds.max=2026-13-45: '2026-13-45' is not a YAML value"),
        (
            "rounds={max: 1, max: 2}",
            "--set rounds={max: 1, max: 2}: the key 'max' is written twice in line 1: keep one of them",
        ),
        ("local.lr=-1", "--set local.lr=-1: must be greater than 0"),
        ("local.lr=nan", "--set local.lr=nan: must be greater than 0"),
        ("model.adapter.rank=0", "--set model.adapter.rank=0: must be greater than or equal to 1"),
        ("model.adapter.rank=999", "--set model.adapter.rank=999: must be less than or equal to 256"),
        (
            "model.adapter.layers=none",
            "--set model.adapter.layers=none: must be 'all' or must be a list, not 'none'",
        ),
        ("model.adapter.targets=q_proj", "--set model.adapter.targets=q_proj: must be a list, not 'q_proj'"),
        ("privacy.epsilon=0", "--set privacy.epsilon=0: must be greater than 0"),
        ("privacy.epsilon=-1", "--set privacy.epsilon=-1: must be greater than 0"),
        ("privacy.delta=1", "--set privacy.delta=1: must be less than 0.1"),
        ("name=../x", f"--set name=../x: '../x' cannot be one: {RULE}"),
        (
            "task.template={body}",
            "--set task.template={body}: task.template names ['body'], which task.fields does not",
        ),
        (
            "task={kind: classification, labels: {a: A}}",
            "--set task={kind: classification, labels: {a: A}}: task.labels needs at least two labels",
        ),
        (
            "task.kind=chat",
            "--set task.kind=chat: task.fields needs `answer` for chat: the words to learn",
        ),
        (
            "simulation.sites=[amazon, amazon]",
            "--set simulation.sites=[amazon, amazon]: each site is named once",
        ),
        (
            "simulation.sites=[A, b]",
            f"--set simulation.sites=[A, b]: simulation.sites.0: 'A' cannot be one: {RULE}",
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_names_the_option(place: Path, override: str, line: str) -> None:
    assert refused(place, "run", "fed.yaml", "--set", override).startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "fed.yaml: the file is empty; `fedllm new` writes one"),
        ("# nothing yet\n", "fed.yaml: the file is empty; `fedllm new` writes one"),
        ("- a\n- list\n", "fed.yaml: expected keys and values such as `name: …`, found a list"),
        ("just words\n", "fed.yaml: expected keys and values such as `name: …`, found 'just words'"),
        ("name: [unclosed\n", "fed.yaml: not YAML: "),
        ("name: a\n\tseed: 1\n", "fed.yaml: not YAML: "),
        (
            "name: a\nseed: 1\nname: b\n",
            "fed.yaml: not YAML: the key 'name' is written in line 1 and in line 3",
        ),
        (
            "name: a\nrounds:\n  max: 1\n  join: 1s\n  max: 2\n",
            "fed.yaml: not YAML: the key 'max' is written in line 3 and in line 5: keep one of them",
        ),
        ("name: ../x\ntask: {kind: text}\n", f"fed.yaml: name: '../x' cannot be one: {RULE}"),
        ("task: {kind: text}\n", "fed.yaml: name is missing"),
        (
            "name: a\ntask: {kind: text}\nrounds: {max: three}\n",
            "fed.yaml: rounds.max: must be a whole number",
        ),
        ("name: a\ntask: {kind: classification}\n", "fed.yaml: task.labels needs at least two labels"),
    ],
)
def test_a_federation_file_that_is_none_is_named(place: Path, text: str, line: str) -> None:
    (place / "fed.yaml").write_text(text)
    assert refused(place, "run", "fed.yaml").startswith(line)


def test_a_file_that_is_no_text_is_named(place: Path) -> None:
    (place / "fed.yaml").write_bytes(b"\x80\x03}q\x00")
    assert refused(place, "run", "fed.yaml").startswith("fed.yaml: cannot be read: it is no UTF-8 text")
    assert refused(place, "run", ".") == ".: cannot be read: Is a directory"
    assert refused(place, "run", "none.yaml") == "none.yaml: no such file"


def test_a_fault_of_the_file_is_not_laid_on_a_setting(place: Path) -> None:
    (place / "fed.yaml").write_text("name: A\ntask: {kind: text}\n")
    line = refused(place, "run", "fed.yaml", "--set", "rounds.max=three")
    assert f"fed.yaml: name: 'A' cannot be one: {RULE}" in line
    assert "--set rounds.max=three: must be a whole number" in line
