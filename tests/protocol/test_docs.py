"""The documents say what the code does: every field, every default, every test that is named."""

import ast
import json
import re
import types
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Message

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
THREATS = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")

Row = dict[str, tuple[str, str]]  # field: type, and what it means when left out


def tables() -> dict[str, Row]:
    """The tables of section 4 by their headings' first words."""
    found: dict[str, Row] = {}
    for section in re.split(r"^### ", PROTOCOL, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (-|`.*?`) \|", body.split("\n## ")[0], flags=re.MULTILINE)
        if rows:
            found[heading.split(" `")[0]] = {name: (kind, default) for name, kind, default in rows}
    return found


def models() -> dict[str, type[BaseModel]]:
    """Every message, and everything that stands in one."""
    found: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in Message.__subclasses__()}
    for kind in found.values():
        kind.model_rebuild()  # a name that a class was given before it was defined
    waiting: list[Any] = [field.annotation for kind in found.values() for field in kind.model_fields.values()]
    while waiting:
        annotation = waiting.pop()
        if (
            isinstance(annotation, type)
            and issubclass(annotation, BaseModel)
            and get_origin(annotation) is None
        ):
            if annotation.__name__ not in found:
                found[annotation.__name__] = annotation
                waiting += [field.annotation for field in annotation.model_fields.values()]
        else:
            waiting += [part for part in get_args(annotation) if not isinstance(part, str)]
    return found


def name_of(name: str, field: FieldInfo) -> str:
    return field.alias or name


def left_out(field: FieldInfo) -> str:
    """What the third column should say."""
    if field.is_required():
        return "-"
    return f"`{json.dumps(field.get_default(call_default_factory=True))}`"


def test_everything_in_a_message_has_its_table_and_nothing_else_has() -> None:
    assert set(tables()) == {*models(), "Head of every message"}


@pytest.mark.parametrize("kind", sorted(models()))
def test_every_field_of_a_message_is_described_with_what_it_means_when_left_out(kind: str) -> None:
    model, described = models()[kind], {name: row[1] for name, row in tables()[kind].items()}
    if issubclass(model, Message):
        described |= {name: row[1] for name, row in tables()["Head of every message"].items()}
    fields = {name_of(name, field): field for name, field in model.model_fields.items()}
    expected = {name: "-" if name == "schema" else left_out(field) for name, field in fields.items()}
    assert described == expected


@pytest.mark.parametrize("kind", sorted(models()))
def test_a_field_that_may_be_null_is_described_so(kind: str) -> None:
    for name, field in models()[kind].model_fields.items():
        if (described := tables()[kind].get(name_of(name, field))) is not None:
            nullable = types.NoneType in get_args(field.annotation)
            assert ("or null" in described[0]) == nullable, name


@pytest.mark.parametrize("kind", sorted(kind.__name__ for kind in Message.__subclasses__()))
def test_a_message_stands_under_its_schema_and_its_size(kind: str) -> None:
    model = models()[kind]
    schema = model.model_fields["schema_"].default
    assert f"\n### {kind} `{schema}`\n" in PROTOCOL
    assert issubclass(model, Message)
    mib = model.largest / 2**20
    told = re.search(
        r"a plan, a roster or an update (\d+) MiB, a closing (\d+) MiB, all others (\d+) KiB", PROTOCOL
    )
    assert told is not None
    sizes = dict.fromkeys(("Plan", "Roster", "Update"), int(told[1])) | {"Closed": int(told[2])}
    assert mib == sizes.get(kind, int(told[3]) / 1024)


def test_every_key_of_the_bucket_is_in_the_table() -> None:
    layout = Layout("{federation}")
    run, sealed_sha256, site = "{run}", "{sealed_sha256}", "{site}"
    number: Any = "{n}"
    keys = {
        layout.roster,
        layout.head,
        *(make(run, number) for make in (layout.plan, layout.closed, layout.report, layout.optimizer)),
        layout.model(run, sealed_sha256),
        layout.card(site),
        *(make(site, run, number) for make in (layout.answer, layout.update, layout.payload)),
        *(make(site, run, number, "{phase}") for make in (layout.query, layout.reply)),
    }
    assert set(re.findall(r"^\| `(\{federation\}\S+)` \|", PROTOCOL, flags=re.MULTILINE)) == keys


def named_tests(text: str) -> list[str]:
    """What a document names as `tests/folder/file.py::name`."""
    return sorted(set(re.findall(r"tests/[\w/]+\.py::\w+", text)))


def known_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in _names(node)}
    return {name for name in found | named if name.lower().startswith("test")}


def _names(node: ast.Assign) -> list[ast.Name]:
    return [target for target in node.targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("named", named_tests(THREATS + PROTOCOL))
def test_a_test_that_a_document_names_exists(named: str) -> None:
    path, _, name = named.partition("::")
    assert (ROOT / path).is_file(), f"there is no {path}"
    assert name in known_tests(ROOT / path), f"{path} has no test {name}"


def test_the_threat_model_names_tests_at_all_and_no_file_without_a_test() -> None:
    assert len(named_tests(THREATS)) > 30
    assert set(re.findall(r"tests/[\w/]+\.py", THREATS)) == {
        name.split("::")[0] for name in named_tests(THREATS)
    }


@pytest.mark.parametrize("link", sorted(set(re.findall(r"`((?:docs|tests)/[\w./]+)`", PROTOCOL + THREATS))))
def test_a_file_that_a_document_names_exists(link: str) -> None:
    assert (ROOT / link).exists()
