"""Rows that a task cannot use: a few are left out, with many a round without DP is declined beforehand."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.job import Job, Workbench
from fedllm.agent.join import Membership
from fedllm.agent.record_check import RecordCheck
from fedllm.config import FederationConfig, TaskConfig
from fedllm.data.forget import forget
from fedllm.data.forgotten_file import FILE
from fedllm.data.records import write_records
from fedllm.errors import DataError
from fedllm.protocol.messages import Answer, Plan, Update
from fedllm.protocol.terms import PrivacyPlan
from tests.agent.played import Coordinator, CountingTrainer, ticks

LABELS = ("positive", "negative")
PRIVACY = PrivacyPlan(
    unit="record",
    epsilon=8.0,
    delta=1e-5,
    clip=1.0,
    rounds=3,
    steps=2,
    min_honest=1,
    sampling_rate=0.5,
    noise_multiplier=5.0,
)


def fill(member: Membership, bad: int, good: int = 20) -> None:
    """Give the site rows of which the first `bad` have a label that names somebody."""
    rows = [{"id": f"patient-{n}", "text": f"no {n}", "label": "secret"} for n in range(bad)]
    rows += [{"text": f"no {n}", "label": LABELS[n % 2]} for n in range(good)]
    write_records(member.site.data, rows)


def take_part(agent: Agent, coordinator: Coordinator, plan: Plan) -> tuple[Answer, Update | None]:
    coordinator.point(plan.round, coordinator.show_plan(plan), number=plan.round)
    ticks(agent)
    answer = coordinator.answer(plan.round)
    assert answer is not None
    return answer, coordinator.update(plan.round)


def test_one_bad_row_is_left_out_and_told_to_the_sites_log_alone(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    fill(member, bad=1)
    with closing(Agent(member, trainer)) as agent:
        answer, update = take_part(agent, coordinator, coordinator.plan())
    assert update is not None
    assert (answer.decision, answer.reason, update.failed, update.steps) == ("accept", "", None, 2)
    assert "1 of 21 rows are left out: line 1: label 'secret' is not in task.labels" in caplog.text


def test_a_bad_row_is_never_drawn(member: Membership, bench: Workbench, coordinator: Coordinator) -> None:
    # The same bits come of a file without the row: not as many numbers are drawn from, nor others.
    updates = []
    for bad in (0, 2):
        fill(member, bad=bad)
        folder = coordinator.folder / f"bad-{bad}"
        folder.mkdir()
        (folder / "model").write_bytes(coordinator.model.flat)
        plan = coordinator.plan()
        job = Job(
            base=agent_base(),
            data=member.site.data,
            model=folder / "model",
            output=folder / "update",
            next_residual=folder / "residual",
            adapter=plan.adapter,
            adapter_seed=plan.seed,
            layout_sha256=plan.layout_sha256,
            frozen_sha256=plan.frozen_sha256,
            task=plan.task,
            local=plan.local,
            steps=2,
            round=1,
            rounds=3,
            seed=1,
            threads=1,
        )
        bench.perform(job, lambda _step, _steps: None)
        updates.append((folder / "update").read_bytes())
    assert updates[0] == updates[1]


def agent_base() -> Path:
    from fedllm.models.base import resolve_base

    return resolve_base("tiny")


def test_with_more_than_the_policys_share_a_round_is_declined_before_anything_is_trained(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    fill(member, bad=3)
    with closing(Agent(member, trainer)) as agent:
        answer, update = take_part(agent, coordinator, coordinator.plan())
        assert (answer.decision, update, trainer.jobs) == ("decline", None, 0)
        assert answer.reason.startswith(
            "more of the site's records do not fit the plan's task than its policy"
        )
        for private in ("secret", "patient", "23", str(member.site.data)):
            assert private not in answer.reason
        assert "3 of 23 rows are left out: lines 1, 2, 3: label 'secret'" in caplog.text
        fill(member, bad=2)  # the owner mends the file: the next round is taken
        answer, update = take_part(agent, coordinator, coordinator.plan(2))
        assert (answer.decision, trainer.jobs) == ("accept", 1)


@pytest.mark.parametrize("bad", [0, 1, 15, 20])
def test_under_dp_what_a_site_answers_and_sends_does_not_rest_on_bad_rows(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, bad: int
) -> None:
    fill(member, bad=bad, good=20 - bad)
    with closing(Agent(member, trainer)) as agent:
        answer, update = take_part(agent, coordinator, coordinator.plan(privacy=PRIVACY))
    assert update is not None
    assert (answer.decision, answer.reason, answer.steps) == ("accept", "", 2)
    assert (update.failed, update.steps, update.examples, update.loss) == (None, 2, None, None)


def test_under_dp_the_owner_is_told_that_most_rows_are_left_out(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    fill(member, bad=15, good=5)
    with closing(Agent(member, trainer)) as agent:
        take_part(agent, coordinator, coordinator.plan(privacy=PRIVACY))
    (told,) = [record for record in caplog.records if "15 of 20 rows are left out" in record.message]
    assert (told.levelno, "fix the file" in told.message) == (logging.ERROR, True)


def test_a_file_is_read_again_only_when_it_or_the_task_is_another(
    member: Membership, config: FederationConfig, caplog: pytest.LogCaptureFixture
) -> None:
    fill(member, bad=5)
    check = RecordCheck.of(member)
    for _ in range(2):
        assert check.objection(config.task) is not None
    assert caplog.text.count("5 of 25 rows") == 1
    wider = TaskConfig(labels={**config.task.labels, "secret": " secret"}, template=config.task.template)
    assert check.objection(wider) is None
    forget(member.home, [("label", "secret")])  # withdrawn rows are not counted
    assert check.objection(config.task) is None
    with closing(sqlite3.connect(member.home / FILE)) as reader:
        reader.execute("SELECT * FROM withdrawal").fetchall()  # so that the next one stays in SQLite's log
        forget(member.home, [("label", label) for label in config.task.labels])
        withdrawn = check.objection(config.task)
    assert withdrawn is not None
    assert "do not fit the plan's task" in withdrawn.reason
    member.site.data.unlink()
    objection = check.objection(config.task)
    assert objection is not None
    assert objection.reason == "the site's records cannot be read; the site's own log says why"


@pytest.mark.parametrize("json", [False, True])
def test_a_failed_training_is_one_line_in_the_sites_log_and_nothing_is_said_to_be_released(
    member: Membership,
    coordinator: Coordinator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    json: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("FEDLLM_LOG", "json" if json else "text")
    why = f"{member.site.data}, line 17: what was read no longer holds"

    class Broken(Workbench):
        """Fails as a file does that changes between two looks."""

        def perform(self, *_: object) -> NoReturn:
            raise DataError(why)

    with closing(Agent(member, CountingTrainer(Broken()))) as agent:
        _, update = take_part(agent, coordinator, coordinator.plan())
    assert update is not None
    public = "the site's records do not fit the plan's task; the site's own log says which and why"
    assert update.failed == public
    lines = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [line.message for line in lines] == [
        f"round 1 of run-a: training failed: {public if json else why}"
    ]
    assert not lines[0].exc_info
    assert "update released" not in caplog.text
    assert "reported that nothing was trained" in caplog.text
