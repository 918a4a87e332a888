"""A plan's task sees the fields that it needs, and nothing beside them."""

from collections.abc import Iterable

import pytest

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.minimise import needed_fields, only
from fedllm.data.records import Record
from fedllm.errors import DataError
from fedllm.models.base import resolve_base
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.load import load_learner

LABELS = {"good": " positive", "bad": " negative"}


def task(**settings: object) -> TaskConfig:
    return TaskConfig.model_validate({"kind": "classification", "labels": LABELS, **settings})


@pytest.mark.parametrize(
    ("asked", "needed"),
    [
        (task(template="Text: {text}\nSentiment:"), {"text", "label"}),
        (task(template="{text}", fields={"text": "body", "label": "stars"}), {"body", "stars"}),
        (task(template="{a}, {b}", fields={"a": "x", "b": "y", "c": "z", "label": "l"}), {"x", "y", "l"}),
        (task(template="no field at all"), {"label"}),
        (task(template="{first-name}", fields={"first-name": "n", "label": "label"}), {"n", "label"}),
        (task(kind="text", labels={}, template="{text}"), {"text"}),
        (task(kind="chat", labels={}, template="{q}", fields={"q": "ask", "answer": "say"}), {"ask", "say"}),
        (
            task(kind="summarization", labels={}, template="{t}", fields={"t": "long", "answer": "short"}),
            {"long", "short"},
        ),
        (
            task(kind="image", fields={"image": "pixels", "label": "digit", "text": "text"}),
            {"pixels", "digit"},
        ),
    ],
)
def test_a_task_needs_what_its_template_and_its_answer_name(asked: TaskConfig, needed: set[str]) -> None:
    assert needed_fields(asked, None) == needed


def test_where_people_are_the_unit_the_field_that_names_them_is_needed_too() -> None:
    assert needed_fields(task(), "person") == {"text", "label", "person"}


def test_what_is_not_needed_is_dropped_and_the_id_stays_for_local_error_lines() -> None:
    record = {"id": "7", "text": "fine", "label": "good", "silo": "x", "diagnosis": "J45", "email": "a@b.org"}
    assert only([record], needed_fields(task(), None)) == [{"id": "7", "text": "fine", "label": "good"}]


def test_records_are_copied_and_an_absent_field_stays_absent() -> None:
    record = {"label": "good"}
    assert only([record], frozenset({"text", "label"})) == [record]
    assert only([record], frozenset({"text", "label"}))[0] is not record


@pytest.fixture(scope="module")
def learner() -> CausalLearner:
    """A real one on the tiny model."""
    found = load_learner(resolve_base("tiny"), AdapterConfig(), 1, task(template="{text}"))
    assert isinstance(found, CausalLearner)
    return found


def test_every_field_that_a_task_reads_is_needed_and_a_field_beside_it_never_reaches_encode(
    learner: CausalLearner,
) -> None:
    full = [{"id": "1", "text": "rather fine", "label": "good", "note": "HIV"}]
    seen: list[set[str]] = []

    class Watched(dict[str, str]):
        """Tells which fields are looked at."""

        def __getitem__(self, key: str) -> str:
            seen.append({key})
            return super().__getitem__(key)

    def encoded(records: Iterable[Record]) -> object:
        return learner.encode(Watched(record) for record in records)

    slim = only(full, needed_fields(learner.task, None))
    assert "note" not in slim[0]
    assert encoded(slim) == learner.encode(full)
    assert set().union(*seen) == needed_fields(learner.task, None)


def test_an_error_line_names_the_record_and_cannot_name_what_was_dropped(learner: CausalLearner) -> None:
    bad = [{"id": "r-17", "label": "good", "diagnosis": "J45"}]
    with pytest.raises(DataError, match="record r-17") as caught:
        learner.encode(only(bad, needed_fields(learner.task, None)))
    assert "diagnosis" not in str(caught.value)
