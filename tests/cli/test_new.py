"""`fedllm new`: the file it writes can be read as it is, and says what it means."""

import json
from pathlib import Path

import pytest
import yaml

from fedllm.config import TaskConfig, load_federation
from fedllm.config.new_file import NEW_KINDS, TaskKind, example_record, federation_text
from fedllm.models.base import load_base, resolve_base
from tests.cli.in_process import fedllm
from tests.training.learners import encode


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_each_kind_of_file_loads_and_simulates_nothing(kind: TaskKind, tmp_path: Path) -> None:
    done = fedllm("new", "harbours", "--task", kind, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load_federation(tmp_path / "harbours.yaml")
    assert (config.name, config.task.kind, config.simulation) == ("harbours", kind, None)
    assert done.stdout.splitlines()[-1] == "next   fedllm up --config harbours.yaml"


@pytest.mark.parametrize("kind", NEW_KINDS)
def test_the_record_in_its_comment_is_one_that_can_be_trained_on(kind: TaskKind, tmp_path: Path) -> None:
    labels = ("positive", "negative")
    file = tmp_path / "fed.yaml"
    file.write_text(federation_text("fed", kind, labels, "tiny"))
    task: TaskConfig = load_federation(file).task
    (comment,) = [line for line in file.read_text().splitlines() if "A record is a line of JSON" in line]
    told = comment.partition("such as ")[2].removesuffix(".")
    assert told == example_record(kind, labels)
    _, tokenizer = load_base(resolve_base("tiny"))
    (example,) = encode(tokenizer, [json.loads(told)], task)
    assert example.answer


def test_labels_that_yaml_takes_for_something_else_stay_words(tmp_path: Path) -> None:
    assert fedllm("new", "fed", "--labels", "yes, no,1,größer: ja", folder=tmp_path).returncode == 0
    labels = load_federation(tmp_path / "fed.yaml").task.labels
    assert labels == {"yes": " yes", "no": " no", "1": " 1", "größer: ja": " größer: ja"}


def test_base_and_file_are_those_that_were_asked_for(tmp_path: Path) -> None:
    done = fedllm("new", "fed", "--base", "tiny", "--out", tmp_path / "here.yaml", "--json", folder=tmp_path)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["schema"] == "fedllm.new/1"
    assert load_federation(told["file"]).model.base == "tiny"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "fed.yaml").write_text("mine")
    done = fedllm("new", "fed", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "choose another --out" in done.stderr
    assert (tmp_path / "fed.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["../fed"], "small letters"),
        (["fed", "--labels", "one"], "at least two"),
        (["fed", "--labels", "one,one"], "different"),
        (["fed", "--labels", "one,,two"], "different"),
        (["fed", "--task", "chat", "--labels", "a,b"], "leave it out"),
        (["fed", "--labels", f"a,{'b' * 300}"], "task.labels"),
        (["fed", "--out", "nowhere/fed.yaml"], "No such file"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    arguments: list[str], why: str, tmp_path: Path
) -> None:
    done = fedllm("new", *arguments, folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_it_is_minimal(tmp_path: Path) -> None:
    file = tmp_path / "fed.yaml"
    file.write_text(federation_text("fed", "classification", ("a", "b"), "tiny"))
    assert set(yaml.safe_load(file.read_text())) == {
        *("name", "model", "task", "evaluation", "rounds", "local", "privacy", "store", "tracking")
    }
    assert max(map(len, file.read_text().splitlines())) <= 110
