"""Lines of a data file, as people and their programs write them."""

import contextlib
import io
import json
import shlex
import sys
from pathlib import Path

import pytest

from fedllm.data.records import read_records
from fedllm.data.rows import read_rows, scan_rows
from fedllm.errors import DataError


def test_lines_that_are_no_records_are_told_by_number_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n\xff\n\n{"text": ["two"]}\n{"text": "\\ud800"}\n{"text": null}\n'
        + b"[" * 100_000
        + b'\r\n{"text": "three", "n": 3}'
    )
    rows, faults = scan_rows(path)
    assert [(row.line, row.record) for row in rows] == [
        (1, {"text": "one"}),
        (8, {"text": "three", "n": "3"}),
    ]
    assert [fault.line for fault in faults] == [2, 4, 5, 6, 7]
    assert faults[3].reason == "'text' is null; write a text, or leave the line out"


def test_whether_any_line_is_a_record_is_left_to_who_asks(tmp_path: Path) -> None:
    # Under DP a file with one record less must not end otherwise.
    path = tmp_path / "data.jsonl"
    for content in (b"", b"{\n", b"a,b\n1,2\n"):
        path.write_bytes(content)
        assert scan_rows(path)[0] == []
        with pytest.raises(DataError):
            read_rows(path)
    with pytest.raises(DataError, match="no such file"):
        scan_rows(tmp_path / "none")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "naïve"}\n', encoding="utf-8-sig")
    assert read_records(tmp_path / "a.jsonl") == [{"text": "naïve"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"one, two",x\nthree,y\n'),
        ("a.tsv", "text\tlabel\none, two\tx\nthree\ty\n"),
        ("semicolons.csv", "text;label\none, two;x\nthree;y\n"),
        ("it is json.jsonl", '[{"text": "one, two", "label": "x"},\n {"text": "three", "label": "y"}]'),
        ("semicolons.txt", "text;label\none, two;x\nthree;y\n"),
        ("array.json", '[{"text": "one, two", "label": "x"},\n {"text": "three", "label": "y"}]'),
    ],
)
def test_another_format_is_named_with_a_command_that_makes_json_lines_of_it(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="convert it to JSON lines") as refused:
        read_records(tmp_path / name)
    command = str(refused.value).partition("python3 ")[2]
    code, source, target = shlex.split(command)[1], *shlex.split(command)[3::2]
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "stdin", io.StringIO(content))
        exec(code, {})  # noqa: S102 - as python3 -c does
    assert source == str(tmp_path / name)
    assert target != source  # a shell empties a file that it writes before another program reads it
    Path(target).write_text(out.getvalue())
    expected = [{"text": "one, two", "label": "x"}, {"text": "three", "label": "y"}]
    assert read_records(target) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "one"}\n'.encode("utf-16"), "UTF-16"),
        ('{"text": "Häfen"}\n'.encode("latin-1"), "line 1: cannot be read as UTF-8"),
        (b"\0\1\2,\n", "line 1: "),
        (b"", "holds no records"),
    ],
)
def test_what_is_no_utf_8_is_said_to_be_none(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_records(tmp_path / "a.jsonl")


def test_chat_messages_are_refused_with_the_fields_that_are_expected(tmp_path: Path) -> None:
    record = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match="question and answer as two fields") as refused:
        read_records(tmp_path / "a.jsonl")
    assert "\n" not in str(refused.value)
