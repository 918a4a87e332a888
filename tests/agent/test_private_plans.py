"""What an agent makes of a plan with differential privacy: what it reserves, charges, tells and declines."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedllm.agent.accounts import Accounts
from fedllm.agent.agent import Agent
from fedllm.agent.job import Failed
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.config import LocalConfig
from fedllm.data.forget import forget
from fedllm.privacy.ledger import Ledger
from fedllm.protocol.messages import Answer, Card, Plan, Update
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.identity import create_identity
from tests.agent.played import RUN, SITE, Coordinator, CountingTrainer, EndlessTrainer, ticks

LOCAL = LocalConfig(optimizer="sgd", lr=0.1, steps=2, batch_size=2)
RECORD: dict[str, Any] = {
    "unit": "record",
    "epsilon": 10.0,
    "delta": 1e-5,
    "clip": 0.5,
    "rounds": 3,
    "steps": 2,
    "sampling_rate": 0.5,
    "noise_multiplier": 1.5,
}


def private(coordinator: Coordinator, number: int = 1, **changes: Any) -> Plan:  # noqa: ANN401 - any term
    rest = {name: changes.pop(name) for name in ("ledgers", "run", "local") if name in changes}
    return coordinator.plan(number, **{"local": LOCAL, "privacy": PrivacyPlan(**RECORD | changes)} | rest)


def asked(agent: Agent, coordinator: Coordinator, plan: Plan, counter: int = 1) -> Answer:
    coordinator.point(counter, coordinator.show_plan(plan), number=plan.round)
    ticks(agent)
    answer = coordinator.answer(plan.round)
    assert answer is not None
    return answer


def test_a_training_is_reserved_whole_and_each_round_charged(agent: Agent, coordinator: Coordinator) -> None:
    assert asked(agent, coordinator, private(coordinator)).decision == "accept"
    update = coordinator.update()
    assert update is not None
    assert [(entry.kind, entry.steps) for entry in update.ledger] == [
        ("open", None),
        ("reserve", 6),
        ("charge", 2),
    ]
    assert asked(agent, coordinator, private(coordinator, 2), 2).decision == "accept"
    later = coordinator.update(2)
    assert later is not None
    assert [entry.kind for entry in later.ledger][-1] == "charge"


def test_nothing_but_steps_and_the_ledger_is_told(agent: Agent, coordinator: Coordinator) -> None:
    asked(agent, coordinator, private(coordinator))
    update = coordinator.update()
    assert update is not None
    assert (update.examples, update.loss, update.seconds, update.steps) == (None, None, None, 2)
    ticks(agent)
    card = coordinator.mailbox.read(
        coordinator.mailbox.layout.card(SITE), Card, coordinator.member.identity.public
    ).message
    assert (card.examples, card.progress) == (None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epsilon": 1.0}, "its noise spends"),
        ({"unit": "site", "rounds": 1, "steps": 1, "clip": 0.1}, "one step at sampling rate 1"),
        (
            {"unit": "site", "steps": 1, "sampling_rate": 1.0, "noise_multiplier": 20.0, "min_honest": 2},
            "2 honest survivors, 1 of the cohort are in the roster",
        ),
        ({"unit": "person"}, "name a field for the unit person"),
        ({"unit_field": "name"}, "name a field for the unit person"),
        ({"steps": 1}, "2 steps are above the privacy plan's 1"),
        ({"rounds": 1000, "steps": 1001}, "1001000 steps of a privacy plan are above 1000000"),
        ({"noise_multiplier": 1e300}, "out of range"),
        ({"sampling_rate": 5e-324}, "out of range"),
        ({"clip": 1e37}, "a clip of 1e+37 is out of range"),
        ({"clip": 1e-30}, "out of range"),
    ],
)
def test_a_privacy_plan_that_cannot_be_honest_is_declined(
    agent: Agent, coordinator: Coordinator, changes: dict[str, Any], reason: str
) -> None:
    answer = asked(agent, coordinator, private(coordinator, **changes))
    assert answer.decision == "decline"
    assert reason in answer.reason


def test_another_privacy_plan_within_a_run_is_declined(agent: Agent, coordinator: Coordinator) -> None:
    asked(agent, coordinator, private(coordinator))
    answer = asked(agent, coordinator, private(coordinator, 2, noise_multiplier=1.4), 2)
    assert (answer.decision, "another privacy plan" in answer.reason) == ("decline", True)


def test_a_run_that_began_with_privacy_does_not_go_on_without(agent: Agent, coordinator: Coordinator) -> None:
    asked(agent, coordinator, private(coordinator))
    answer = asked(agent, coordinator, coordinator.plan(2, local=LOCAL), 2)
    assert (answer.decision, answer.reason) == ("decline", "the run began with privacy, this plan has none")


def test_a_round_beyond_the_privacy_plan_is_declined(agent: Agent, coordinator: Coordinator) -> None:
    answer = asked(agent, coordinator, private(coordinator, 2, rounds=1))
    assert "the privacy plan's 1 rounds are over" in answer.reason


def limited(member: Membership, **policy: Any) -> Membership:  # noqa: ANN401 - any limit
    chosen = member.site.policy.model_copy(update=policy)
    site = member.site.model_copy(update={"policy": chosen})
    return Membership(site, member.home, member.identity, member.invitation)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"max_epsilon": 2.0}, "epsilon 10 is above the policy's 2 per training"),
        ({"max_delta": 1e-6}, "delta 1e-05 is above the policy's 1e-06"),
        ({"units": ("site",)}, "privacy by record is not what the policy allows"),
        ({"total_epsilon": 1.0}, "the budget of amazon is epsilon 1"),
    ],
)
def test_a_site_whose_budget_does_not_allow_it_drops_out_with_its_reason(
    member: Membership,
    trainer: CountingTrainer,
    coordinator: Coordinator,
    policy: dict[str, Any],
    reason: str,
) -> None:
    with closing(Agent(limited(member, **policy), trainer)) as agent:
        answer = asked(agent, coordinator, private(coordinator))
    assert answer.decision == "decline"
    assert reason in answer.reason
    assert trainer.jobs == 0


def test_a_site_with_a_budget_declines_a_plan_without_privacy(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    with closing(Agent(limited(member, total_epsilon=8.0), trainer)) as agent:
        answer = asked(agent, coordinator, coordinator.plan())
    assert answer.reason == "the policy has a privacy budget, but the plan has no privacy"


def test_a_round_that_the_ledger_knows_and_the_memory_does_not_is_not_trained_again(
    agent: Agent, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    asked(agent, coordinator, private(coordinator))
    agent.close()
    for file in member.home.glob("memory.db*"):  # an older memory, or another home of the same owner
        file.unlink()
    with closing(Agent(member, trainer)) as again:
        answer = asked(again, coordinator, private(coordinator), 2)
    assert (answer.decision, "in this site's ledger already" in answer.reason) == ("decline", True)
    assert trainer.jobs == 1


def test_a_round_that_another_home_charges_after_this_one_answered_is_not_trained_here(
    member: Membership,
    trainer: CountingTrainer,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    other = create_identity(tmp_path / "other", "amazon-b")
    charge = Accounts.charge

    def second(self: Accounts, plan: Plan, asked: PrivacyPlan, steps: int) -> None:
        self.ledger.admit(self.dataset, other.public.verify)
        with closing(Ledger(self.ledger.path, other)) as theirs:
            charge(replace(self, ledger=theirs), plan, asked, steps)
        charge(self, plan, asked, steps)

    monkeypatch.setattr(Accounts, "charge", second)
    with closing(Agent(member, trainer)) as agent:
        assert asked(agent, coordinator, private(coordinator)).decision == "accept"
    update = coordinator.update()
    assert update is not None
    assert (update.payload, trainer.jobs) == (None, 0)
    assert "charged by another of the owner's homes" in (update.failed or "")


@pytest.mark.parametrize("dp", [True, False])
def test_why_a_training_failed_is_told_without_dp_alone(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, *, dp: bool
) -> None:
    why = "the loss is nan at step 3: lower local.lr"
    trainer.poll = lambda: Failed(why)  # type: ignore[method-assign]
    with closing(Agent(member, trainer)) as agent:
        asked(agent, coordinator, private(coordinator) if dp else coordinator.plan())
    update = coordinator.update()
    assert update is not None
    assert update.failed == ("training failed; the site's own log says why" if dp else why)


def test_the_policys_seconds_of_a_run_are_not_told(member: Membership, coordinator: Coordinator) -> None:
    policy = member.site.policy.model_copy(update={"max_seconds": 0.2})
    site = member.site.model_copy(update={"policy": policy})
    limited = Membership(site, member.home, member.identity, member.invitation)
    with closing(Agent(limited, EndlessTrainer())) as agent:
        coordinator.point(1, coordinator.show_plan(private(coordinator)))
        agent.tick()
        time.sleep(0.25)
        agent.tick()
        coordinator.point(2, coordinator.show_plan(private(coordinator, 2)), number=2)
        ticks(agent)
    update, answer = coordinator.update(), coordinator.answer(2)
    assert update is not None
    assert answer is not None
    assert update.failed == "training failed; the site's own log says why"
    assert (answer.decision, answer.reason) == ("decline", "a limit of the site's policy is reached")


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"text": null}', b"\xff\xfe", b"[" * 100_000, b'{"text": "\\ud800"}']
)
def test_a_line_that_is_no_record_is_left_out_under_dp_and_told_to_nobody(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, line: bytes
) -> None:
    agent = Agent(member, trainer)
    with member.site.data.open("ab") as data:
        data.write(line + b"\n")
    with closing(agent):
        asked(agent, coordinator, private(coordinator))
    update = coordinator.update()
    assert update is not None
    assert (update.failed, trainer.jobs) == (None, 1)


def test_a_ledger_that_was_rolled_back_keeps_its_site_from_training_and_names_no_path(
    agent: Agent, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    asked(agent, coordinator, private(coordinator))
    update = coordinator.update()
    assert update is not None
    newest = update.ledger[-1]
    agent.close()
    for file in member.home.glob("ledger.db*"):
        file.unlink()
    heads = {SITE: ({"dataset": newest.dataset, "seq": newest.seq, "sha256": newest.sha256},)}
    with closing(Agent(member, trainer)) as again:
        answer = asked(again, coordinator, private(coordinator, 2, ledgers=heads), 2)
    assert answer.reason == "the site's privacy ledger does not let it take part; the site's own log says why"


@pytest.mark.parametrize("ledger_knows", [True, False])
def test_an_older_memory_makes_no_second_noise_on_one_charge_though_the_store_hides_the_first(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, *, ledger_knows: bool
) -> None:
    older = member.home / "older.db"
    with pytest.MonkeyPatch.context() as patch:
        if not ledger_knows:  # as it was up to 0.1
            patch.setattr(Accounts, "is_released", lambda *_: False)
            patch.setattr(Accounts, "release", lambda *_: None)
        sent, second = _twice(member, trainer, coordinator, older)
    assert sent.payload is not None
    assert trainer.jobs == (1 if ledger_knows else 2)
    assert (second is None) == ledger_knows
    assert second is None or second.payload is None or second.payload.sha256 != sent.payload.sha256


def _twice(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, older: Path
) -> tuple[Update, Update | None]:
    """What a site sends, and sends again with the memory of before, once the store hides the first."""
    coordinator.point(1, coordinator.show_plan(private(coordinator)))
    with closing(Agent(member, EndlessTrainer())) as begun:
        ticks(begun)
    shutil.copy(member.home / "memory.db", older)  # charged, and nothing committed
    with closing(Agent(member, trainer)) as first:
        ticks(first)
    sent = coordinator.update()
    assert sent is not None
    assert sent.payload is not None
    layout, store = coordinator.mailbox.layout, coordinator.mailbox.store
    for key in (layout.update(SITE, RUN, 1), sent.payload.key):
        store.delete(key)
    for file in member.home.glob("memory.db*"):
        file.unlink()
    shutil.copy(older, member.home / "memory.db")
    with closing(Agent(member, trainer)) as again:
        ticks(again)
    return sent, coordinator.update()


def test_withdrawn_records_are_not_trained_on_and_a_torn_table_stops_the_site_before_it_pays(
    agent: Agent, member: Membership, coordinator: Coordinator
) -> None:
    forget(member.home, [("label", "negative")])
    asked(agent, coordinator, coordinator.plan())
    update = coordinator.update()
    assert update is not None
    assert update.failed is None
    table = member.home / "forgotten.db"
    table.write_bytes(table.read_bytes()[:-5])
    answer = asked(agent, coordinator, private(coordinator, 2), 2)
    assert answer.decision == "decline"
    assert agent.worker.accounts.ledger.head(SITE) is None


@pytest.fixture
def store(coordinator: Coordinator) -> Coordinator:
    coordinator.point(1, coordinator.show_plan(private(coordinator)))
    return coordinator


@pytest.mark.servers
@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("before", "charge"),
        ("after", "charge"),
        ("before", "commit"),
        ("after", "commit"),
        ("after", "release"),
    ],
)
def test_an_agent_killed_by_9_charges_once_and_sends_the_bytes_that_it_committed(
    member: Membership, store: Coordinator, tmp_path: Path, when: str, place: str
) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed_agent.py"))]
    command += [str(member.home), str(tmp_path / "amazon.invitation")]
    killed = subprocess.run([*command, when, place], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    committed = _committed(member)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    update = store.update()
    assert update is not None
    assert update.failed is None
    assert [entry.kind for entry in update.ledger] == ["open", "reserve", "charge"]
    shown = store.mailbox.store.get(store.mailbox.layout.update(SITE, RUN, 1), limit=1 << 20)
    assert committed in {None, shown}
    assert (committed is not None) == (
        (when, place) in {("after", "commit"), ("before", "release"), ("after", "release")}
    )


def _committed(member: Membership) -> bytes | None:
    """The signed update on the site's own disk, as the killed process left it."""
    with closing(Memory(member.home / "memory.db")) as memory:
        work = memory.work(RUN, 1)
    return work.update if work else None
