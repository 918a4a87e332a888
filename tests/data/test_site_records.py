"""Which records of a site a task can use, and what else is worth knowing of its file."""

import base64
import json
import logging
from pathlib import Path

import pytest

from fedllm.agent.first_look import first_look
from fedllm.config import TaskConfig
from fedllm.data.forget import forget
from fedllm.data.minimise import needed_fields
from fedllm.data.rows import Fault
from fedllm.data.site_records import Fit, listed, site_records
from fedllm.errors import DataError
from fedllm.logs import fields
from fedllm.models.base import load_tokenizer, resolve_base
from tests.training.learners import encode

CHOICE = TaskConfig(labels={"x": "x", "y": "y"}, template="{text} :", max_length=16)
CHAT = TaskConfig(kind="chat", fields={"text": "question", "answer": "answer"})
TEXT = TaskConfig(kind="text", fields={"text": "text"})
IMAGE = TaskConfig(
    kind="image",
    fields={"image": "image", "label": "label"},
    labels={str(n): str(n) for n in range(10)},
    template="",
)
RECORDS = [
    {"text": "a", "label": "x"},
    {"text": "", "label": "y"},
    {"text": "a", "label": "z"},
    {"text": "a"},
    {"label": "x"},
    {},
    {"question": "a", "answer": "b"},
    {"question": "a", "text": "b"},
]


def write(path: Path, records: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("task", [CHOICE, CHAT, TEXT], ids=["choice", "chat", "text"])
def test_a_record_is_left_out_where_and_only_where_training_cannot_encode_it(task: TaskConfig) -> None:
    tokenizer = load_tokenizer(resolve_base("tiny"))
    fit = Fit(task)
    for record in RECORDS:
        try:
            encode(tokenizer, [record], task)
        except DataError:
            readable = False
        else:
            readable = True
        assert (fit.fault(record) is None) == readable, record


def test_an_image_must_have_all_its_pixels() -> None:
    fit = Fit(IMAGE)
    whole = base64.b64encode(bytes(784)).decode()
    assert fit.fault({"image": whole, "label": "3"}) is None
    assert fit.fault({"image": whole[:-8], "label": "3"}) == "its image has 780 bytes, not 784"
    assert fit.fault({"image": "?", "label": "3"}) == "its image is not base64"


def test_rows_are_parted_by_line_and_withdrawn_ones_are_in_neither_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": str(n), "label": "xyz"[n % 3]} for n in range(6)])
    with path.open("a") as file:
        file.write("{\n")
    forget(tmp_path, [("text", "0"), ("text", "2")])
    found = site_records(path, CHOICE, tmp_path)
    assert [row.line for row in found.usable] == [2, 4, 5]
    assert [fault.line for fault in found.left_out] == [6, 7]
    assert found.share == pytest.approx(2 / 5)
    found.log(logging.WARNING, "a.jsonl")
    assert "a.jsonl: 2 of 5 rows are left out: line 6: label 'z' is not in task.labels (x, y)" in caplog.text
    (told,) = [fields(record)["message"] for record in caplog.records]
    assert told == "a.jsonl: 2 of 5 rows are left out: DataError"  # in JSON, which is sent elsewhere


def test_faults_are_told_by_reason_with_their_first_lines() -> None:
    faults = [Fault(n, "no field 'text'") for n in range(1, 9)] + [Fault(9, "not JSON")]
    assert listed(faults) == "lines 1, 2, 3 and 5 more: no field 'text'; line 9: not JSON"
    many = [Fault(n, f"label 'l{n}'") for n in range(1, 6)]
    assert listed(many) == "line 1: label 'l1'; line 2: label 'l2'; line 3: label 'l3'; and 2 more"


def test_what_is_doubled_or_cut_is_told_and_kept(tmp_path: Path) -> None:
    records = [{"id": str(n), "text": f"number {n}", "label": "xy"[n % 2]} for n in range(9)]
    records[3]["id"] = "1"
    records[5]["text"] = records[2]["text"]
    records[7]["text"] = "word " * 5000
    path = write(tmp_path / "a.jsonl", records)
    for base in (resolve_base("tiny"), None):
        found = first_look(path, CHOICE, base)
        assert (found.usable, found.left_out, found.labels) == (9, [], {"x": 5, "y": 4})
        assert found.lines()[1:] == [
            "rows with the id of an earlier row: 1, line 4: as line 2",
            "rows with the content of an earlier row: 1, line 6: as line 3",
            "rows that are cut to task.max_length, 16 tokens: 1, line 8: 25,002 characters",
        ]


@pytest.mark.parametrize("task", [CHOICE, CHAT.model_copy(update={"max_length": 16}), TEXT])
def test_a_row_is_said_to_be_cut_where_training_reads_less_of_it(tmp_path: Path, task: TaskConfig) -> None:
    long = task.model_copy(update={"max_length": 8192})
    base = resolve_base("tiny")
    tokenizer = load_tokenizer(base)
    names = sorted(needed_fields(task, None) - {"label"})
    records = [dict.fromkeys(names, "ab " * n) | {"label": "x"} for n in range(1, 60)]
    found = first_look(write(tmp_path / "a.jsonl", records), task, base)
    told = {
        fault.line for faults in found.notices.values() for fault in faults if "characters" in fault.reason
    }
    less = {
        number
        for number, record in enumerate(records, start=1)
        if encode(tokenizer, [record], task) != encode(tokenizer, [record], long)
    }
    assert told == less
    assert len(less) > 1


def test_without_a_task_a_field_that_is_usual_is_missed(tmp_path: Path) -> None:
    records = [{"text": "a" * n, "label": "x"} for n in range(1, 40)]
    del records[4]["label"]
    found = first_look(write(tmp_path / "a.jsonl", records), None, None)
    assert found.lines() == ['rows without a field that nearly all rows have: 1, line 5: no "label"']
