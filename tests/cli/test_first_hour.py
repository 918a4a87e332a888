"""What a new user types in the first hour: one line with what to do, and a true exit code."""

import re
import socket
import time
from pathlib import Path

import pytest
import yaml

from fedllm.cli.run_summary import quality_table
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
        (
            "task.template=Hello",
            "--set task.template=Hello: task.template names no field, so every text would",
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
    assert refused(place, "run", "none.yaml").startswith("none.yaml: no such file; ")


def test_a_default_file_that_is_not_there_names_the_one_that_is(place: Path) -> None:
    for command in (("promote", "1"), ("cancel", "x"), ("report",), ("site", "list")):
        assert refused(place, *command).startswith(
            "params.yaml: no such file; there are fed.yaml (--config FILE, `run FILE`); `fedllm new`"
        )


def test_a_home_that_is_no_folder_is_one_line(place: Path) -> None:
    (place / "home").write_text("")
    for command in (("site", "list", "--config", "fed.yaml"), ("run", "fed.yaml")):
        assert "cannot be made (Not a directory)" in refused(place, *command)


def test_a_journal_that_cannot_be_opened_is_one_line(place: Path) -> None:
    (place / "home" / "coordinator" / "harbours" / "journal.db").mkdir(parents=True)
    line = refused(place, "site", "list", "--config", "fed.yaml", code=1)
    assert "the journal of harbours" in line
    assert "unable to open database file" in line


def test_an_agent_without_its_invitation_is_told_where_it_comes_from(place: Path) -> None:
    assert "that the coordinator's `fedllm site add` made" in refused(place, "agent")


def test_a_store_elsewhere_is_looked_at_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm.cli.run._servers", lambda _config: pytest.fail("servers were started"))
    monkeypatch.setattr("fedllm.preflight._check_sites", lambda *_: None)
    store = {"url": "s3://harbours", "endpoint": "http://127.0.0.1:9"}
    (place / "fed.yaml").write_text(yaml.safe_dump(CONFIG | {"store": store}))
    assert "needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY" in refused(place, "run", "fed.yaml")
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", "a")
    monkeypatch.setenv("FEDLLM_SECRET_KEY", "b")
    line = refused(place, "run", "fed.yaml", code=1)
    assert line.startswith("http://127.0.0.1:9 does not answer (")
    line = refused(place, "run", "fed.yaml", "--set", "store.url=s3://b")
    assert "a bucket's name has 3 to 63 small letters" in line


def test_a_table_of_many_rounds_shows_the_first_and_the_last() -> None:
    table = quality_table({"by_round": {str(number): {"accuracy": number / 100} for number in range(41)}})
    names = [str(column.header) for column in table.columns]
    assert names == ["silo", "zero-shot", "round 1", *(f"round {number}" for number in range(34, 41))]
    assert str(table.title) == "accuracy on the public set (without rounds 2 to 33)"
    assert [len(column._cells) for column in table.columns] == [1] * 10


def test_a_fault_of_the_file_is_not_laid_on_a_setting(place: Path) -> None:
    (place / "fed.yaml").write_text("name: A\ntask: {kind: text}\n")
    line = refused(place, "run", "fed.yaml", "--set", "rounds.max=three")
    assert f"fed.yaml: name: 'A' cannot be one: {RULE}" in line
    assert "--set rounds.max=three: must be a whole number" in line


@pytest.mark.parametrize(
    ("base", "line"),
    [
        (
            "smollm2",
            "model.base: no folder, .gguf file or known name 'smollm2', did you mean 'smollm2-135m'?",
        ),
        ("my model", "model.base: no folder, .gguf file or hub model 'my model'"),
        ("/no/such/folder", "model.base: no folder /no/such/folder"),
        ("weights.gguf", "model.base: no file weights.gguf"),
        ("bare", "bare: needs config.json, a tokenizer and *.safetensors weights"),
        (
            "nobody/nothing",
            "model.base: no folder or .gguf file 'nobody/nothing', and as a hub model it is not in",
        ),
    ],
)
def test_a_base_model_that_cannot_be_had_is_said_before_anything_starts(
    place: Path, base: str, line: str
) -> None:
    (place / "bare").mkdir()
    assert line in refused(place, "run", "fed.yaml", "--set", f"model.base={base}", code=1)


def test_a_hub_that_never_answers_is_given_up_within_seconds(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(place / "hub"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        line = refused(place, "run", "fed.yaml", "--set", "model.base=nobody/nothing", code=1)
    assert "does not answer within 4 s; without a network name a folder" in line
    assert time.monotonic() - began < 8  # 5 s, and what a busy machine adds


def test_a_hub_that_refuses_connections_is_given_up_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_HOME", str(place / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    line = refused(place, "run", "fed.yaml", "--set", "model.base=nobody/nothing", code=1)
    assert "http://127.0.0.1:1 does not answer ([Errno 111] Connection refused)" in line


@pytest.mark.parametrize(
    ("settings", "code", "line"),
    [
        ("public=none.jsonl", 2, "evaluation.public: no file none.jsonl; name a JSON-lines file that the"),
        (
            "public=auto",
            2,
            "evaluation.public is auto, which means the held-out part of a simulation's corpus",
        ),
        ("public=empty.jsonl", 1, "empty.jsonl: holds no records; write one JSON object per line"),
        ("public=words.jsonl", 1, "words.jsonl, line 1: not JSON"),
        ("public=other.jsonl", 1, "other.jsonl, record 2: no field 'text'; it has words"),
    ],
)
def test_a_public_set_that_measures_nothing_is_said_before_anything_starts(
    place: Path, settings: str, code: int, line: str
) -> None:
    (place / "empty.jsonl").write_text("\n")
    (place / "words.jsonl").write_text("just words\n")
    (place / "other.jsonl").write_text('{"text": "one"}\n{"words": "two"}\n')
    assert line in refused(place, "run", "fed.yaml", "--set", f"evaluation.{settings}", code=code)


LATE = "task={kind: classification, labels: {late: ' late', ok: ' ok'}}"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["evaluation.public=auto", LATE, "simulation.sites=2"],
            "simulation.source is sentiment and evaluation.public is auto: that corpus (VADER",
        ),
        (
            [LATE, "simulation.sites=2"],
            "has the label 'negative', which task.labels does not; name JSON-lines files",
        ),
        (
            ["task={kind: chat, fields: {text: text, answer: answer}}", "simulation.sites=2"],
            "positive or negative) has no field 'answer'; name JSON-lines files of your own, or leave",
        ),
        (
            ["simulation.source=public.jsonl", "simulation.sites=2", "rounds.min_sites=5"],
            "rounds.min_sites is 5 and `simulation` has 2 sites: name more of them, or lower",
        ),
        ([], "the roster of harbours is empty: add sites with `fedllm site add CARD --config FILE`"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_starts(
    place: Path, settings: list[str], line: str
) -> None:
    given = [word for one in settings for word in ("--set", one)]
    (place / "public.jsonl").write_text('{"text": "one", "label": "late", "answer": "yes"}\n')
    assert line in refused(place, "run", "fed.yaml", *given)


def test_a_roster_smaller_than_a_round_is_said_before_anything_starts(place: Path) -> None:
    (place / "records.jsonl").write_text('{"text": "one"}\n')
    for verb in (
        ("init", "north", "--data", "records.jsonl", "--home", "north"),
        ("add", "north/card.json", "--config", "fed.yaml"),
    ):
        assert fedllm("site", *verb, folder=place, FEDLLM_HOME=place / "home").returncode == 0
    assert refused(place, "run", "fed.yaml") == (
        "rounds.min_sites is 2 and the roster of harbours has 1 site: add more with `fedllm site add CARD`, "
        "or lower rounds.min_sites"
    )


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("runn", "No such command 'runn'. Did you mean 'run'? `fedllm --help` lists what there is"),
        ("run", "Missing argument 'file'; `fedllm run --help` lists what there is"),
        (
            "run fed.yaml again.yaml",
            "Got unexpected extra argument(s) (again.yaml); `fedllm run --help` lists",
        ),
        ("run fed.yaml --bogus", "No such option: --bogus; `fedllm run --help` lists what there is"),
        ("run fed.yaml --set", "Option '--set' requires an argument; `fedllm --help` lists what there is"),
        (
            "run fed.yaml --agents mine",
            "Invalid value for '--agents': 'mine' is not one of 'local', 'external'",
        ),
        ("up --minio-port abc", "Invalid value for '--minio-port': not a whole number"),
        ("up --minio-port 99999", "Invalid value for '--minio-port': must be less than or equal to 65535"),
        ("site", ""),
        ("site nosuch", "No such command 'nosuch'; `fedllm site --help` lists what there is"),
        ("site init", "Missing argument 'name'; `fedllm site init --help` lists what there is"),
        ("run fed.yaml --agents local", "fed.yaml has no `simulation`: it does not say who would hold what"),
        ("run fed.yaml --resume x --set rounds.max=5", "keeps the configuration that it was started with"),
        ("demo", "params.yaml: no such file"),
        ("demo --config fed.yaml --set rounds.max=x", "--set rounds.max=x: must be a whole number, not 'x'"),
        ("up --config none.yaml", "none.yaml: no such file"),
        ("deploy --config none.yaml", "none.yaml: no such file: name the federation file with --config"),
        ("plan-privacy none.yaml", "none.yaml: no such file"),
        ("promote 1 --config none.yaml", "none.yaml: no such file"),
        ("cancel", "Missing argument 'run'; `fedllm cancel --help`"),
        ("site list --config none.yaml", "none.yaml: no such file"),
        ("site revoke nobody --config fed.yaml", "nobody is not in the roster"),
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line(place: Path, command: str, line: str) -> None:
    if line:
        assert line in refused(place, *command.split())
    else:  # a group of verbs alone lists them
        done = fedllm(*command.split(), folder=place)
        assert (done.returncode, done.stderr) == (2, "")


def test_the_version_is_one_line() -> None:
    done = fedllm("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"fedllm \d+\.\d+\.\d+\S*\n", done.stdout)
