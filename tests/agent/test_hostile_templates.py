"""A plan's template, fields and labels are words to be put together: none of them is ever run or followed."""

import pytest
from pydantic import ValidationError

from fedllm.agent.agent import Agent
from fedllm.config import TaskConfig
from fedllm.tasks.examples import fill
from tests.agent.played import Coordinator, ticks

LABELS = {"positive": " positive", "negative": " negative"}
RECORD = {"text": "a {text} of 'its' own: {{ 7*7 }} %s $(id)", "label": "positive", "id": "patient-4711"}


@pytest.mark.parametrize(
    "code",
    [
        "{text.__class__}",
        "{text[0]}",
        "{text!r}",
        "{text:>9999999}",
        "{{text}}",
        "{{ 7*7 }}",
        "{% for x in [].__class__.__base__.__subclasses__() %}{% endfor %}",
        "%(text)s %s",
        "$(id) `id` $HOME",
        "../../etc/passwd",
    ],
)
def test_a_template_is_filled_by_plain_replacement_and_nothing_else(code: str) -> None:
    task = TaskConfig(labels=LABELS, template=f"<{code}|{{text}}>")
    assert fill(RECORD, task) == f"<{code}|{RECORD['text']}>"


@pytest.mark.parametrize("template", ["{0}", "{id}", "{__class__}", "{text} {secret}"])
def test_a_template_that_names_what_is_no_field_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match=r"which task\.fields does not"):
        TaskConfig(labels=LABELS, template=template)


@pytest.mark.parametrize("name", ["absent", "../../etc/passwd", "__class__", "text.__class__"])
def test_a_field_that_the_records_lack_is_declined_with_a_reason_that_quotes_no_record(
    name: str, agent: Agent, coordinator: Coordinator
) -> None:
    task = coordinator.config.task.model_copy(update={"fields": {"text": name, "label": "label"}})
    coordinator.point(1, coordinator.show_plan(coordinator.plan(task=task)))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, coordinator.update()) == ("decline", None)
    assert answer.reason == (
        "the site's records do not fit the plan's task; the site's own log says which and why"
    )
