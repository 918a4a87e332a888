"""A real agent on a folder as its store; the test plays the coordinator and drives the ticks by hand."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership, accept_invitation, init_site, read_card
from fedllm.agent.worker import InlineTrainer, Job, Workbench
from fedllm.config import AdapterConfig, FederationConfig, LocalConfig
from fedllm.coordinator.members import add_site, coordinator_identity, publish_roster
from fedllm.data.records import write_records
from fedllm.errors import ExchangeError, IdentityError, RefusedError
from fedllm.exchange.mailbox import Mailbox, seal_to_file
from fedllm.exchange.messages import COORDINATOR, EVERYONE, Answer, Card, Head, Plan, Roster, Update
from fedllm.models.adapter import attach, decode_flat, encode_flat
from fedllm.models.base import fingerprint, load_base, resolve_base
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity, create_identity

SITE = "amazon"
RUN = "run-a"
ADAPTER = AdapterConfig(rank=2, alpha=4)
SEED = 7
POLICY = {"max_rank": 4, "max_steps": 3, "min_cohort": 1}


@dataclass(frozen=True)
class Global:
    """The adapter that every plan of this module starts from."""

    base_sha256: str
    layout_sha256: str
    frozen_sha256: str
    size: int
    flat: bytes


@pytest.fixture(scope="module")
def model() -> Global:
    base = resolve_base("tiny")
    adapted = attach(load_base(base)[0], ADAPTER, SEED)
    return Global(
        fingerprint(base),
        adapted.layout.sha256,
        adapted.frozen_sha256,
        adapted.layout.size,
        encode_flat(adapted.read()),
    )


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


class CountingTrainer(InlineTrainer):
    """An `InlineTrainer` that counts its jobs."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, threading.Lock())
        self.jobs = 0

    def start(self, job: Job) -> None:
        self.jobs += 1
        super().start(job)


class EndlessTrainer:
    """A job that is under way until it is cancelled."""

    def __init__(self) -> None:
        self.jobs = self.cancelled = 0

    def start(self, job: Job) -> None:
        assert job.model.exists()
        self.jobs += 1

    def poll(self) -> None:
        return None

    def cancel(self) -> None:
        self.cancelled += 1


@dataclass
class Coordinator:
    """What the coordinator says to one site, message by message."""

    config: FederationConfig
    member: Membership
    model: Global
    folder: Path
    me: Identity = field(init=False)
    mailbox: Mailbox = field(init=False)

    def __post_init__(self) -> None:
        self.me = coordinator_identity(self.config.name)
        self.mailbox = Mailbox(self.member.connect(), self.member.layout, self.me)

    def plan(self, number: int = 1, **changes: Any) -> Plan:  # noqa: ANN401
        path = self.folder / "model.sealed"
        key = self.mailbox.layout.model(RUN, "0" * 64)
        sealed = seal_to_file(self.model.flat, [self.member.identity.public.recipient], key, path)
        self.mailbox.send_payload(path, sealed)
        asked: dict[str, Any] = {
            "federation": self.config.name,
            "sender": COORDINATOR,
            "receiver": EVERYONE,
            "run": RUN,
            "round": number,
            "roster_version": 1,
            "epoch": 1,
            "rounds": 3,
            "deadline": time.time() + 600,
            "seed": SEED,
            "sites": (SITE,),
            "weights": {SITE: 1},
            "weighting": "equal",
            "base_sha256": self.model.base_sha256,
            "adapter": ADAPTER,
            "layout_sha256": self.model.layout_sha256,
            "frozen_sha256": self.model.frozen_sha256,
            "model": sealed,
            "task": self.config.task,
            "local": LocalConfig(lr=0.02, steps=2, batch_size=2),
            "most_bytes": self.model.size * 4 + 4096,
            "confidentiality": "plain",
        }
        return Plan(**asked | changes)

    def show_plan(self, plan: Plan, signer: Identity | None = None) -> str:
        """Publish a plan; returns its hash."""
        envelope = sign(plan, signer or self.me)
        key = self.mailbox.layout.plan(RUN, plan.round)
        self.mailbox.store.put(key, envelope)
        return self.mailbox.store.stat(key).etag  # a folder's etag is the SHA-256

    def point(self, counter: int, plan_sha256: str | None, *, number: int = 1, epoch: int = 1) -> None:
        """Publish head.json."""
        head = Head(
            federation=self.config.name,
            sender=COORDINATOR,
            receiver=EVERYONE,
            run=RUN,
            round=number,
            roster_version=1,
            counter=counter,
            epoch=epoch,
            state="training" if plan_sha256 else "idle",
            plan_sha256=plan_sha256,
        )
        self.mailbox.store.put(self.mailbox.layout.head, sign(head, self.me))

    def answer(self, number: int = 1) -> Answer | None:
        key, site = self.mailbox.layout.answer(SITE, RUN, number), self.member.identity.public
        found = self.mailbox.find(key, Answer, site, run=RUN, number=number)
        return found.message if found else None

    def update(self, number: int = 1) -> Update | None:
        key, site = self.mailbox.layout.update(SITE, RUN, number), self.member.identity.public
        found = self.mailbox.find(key, Update, site, run=RUN, number=number)
        return found.message if found else None


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationConfig:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    return FederationConfig.model_validate(
        {
            "name": "fed",
            "model": {"base": "tiny"},
            "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
            "store": {"url": f"file://{tmp_path / 'store'}"},
        }
    )


@pytest.fixture
def member(config: FederationConfig, tmp_path: Path) -> Membership:
    data = tmp_path / "amazon.jsonl"
    labels = ("positive", "negative")
    write_records(data, [{"text": f"{label} {n}", "label": label} for n in range(4) for label in labels])
    home = tmp_path / SITE
    quick = {"poll_near": 0.001, "poll_idle": 0.001}  # every tick looks at head.json
    card = init_site(SITE, data, home, base="tiny", threads=1, policy=POLICY, **quick)
    invitation = tmp_path / "amazon.invitation"
    invitation.write_bytes(add_site(config, read_card(card)))
    return accept_invitation(invitation, home)


@pytest.fixture
def trainer(bench: Workbench) -> CountingTrainer:
    return CountingTrainer(bench)


@pytest.fixture
def agent(member: Membership, trainer: CountingTrainer) -> Iterator[Agent]:
    with closing(Agent(member, trainer)) as agent:
        yield agent


@pytest.fixture
def coordinator(config: FederationConfig, member: Membership, model: Global, tmp_path: Path) -> Coordinator:
    return Coordinator(config, member, model, tmp_path)


def ticks(agent: Agent, count: int = 2) -> None:
    """One tick takes a plan up and trains, the next one commits and releases."""
    for _ in range(count):
        agent.tick()


def test_an_agent_without_a_head_shows_that_it_lives(agent: Agent, coordinator: Coordinator) -> None:
    agent.tick()
    key, site = coordinator.mailbox.layout.card(SITE), coordinator.member.identity.public
    card = coordinator.mailbox.read(key, Card, site).message
    assert (card.state, card.examples, card.base_sha256) == ("idle", 8, coordinator.model.base_sha256)


def test_a_plan_is_accepted_and_its_update_released(agent: Agent, coordinator: Coordinator) -> None:
    plan_sha256 = coordinator.show_plan(coordinator.plan())
    coordinator.point(1, plan_sha256)
    ticks(agent)
    answer, update = coordinator.answer(), coordinator.update()
    assert answer is not None
    assert update is not None
    assert (answer.decision, answer.steps, answer.plan_sha256) == ("accept", 2, plan_sha256)
    assert (update.failed, update.steps, update.plan_sha256) == (None, 2, plan_sha256)
    assert update.payload is not None
    flat = decode_flat(coordinator.mailbox.fetch_payload(update.payload), coordinator.model.size)
    assert flat.abs().sum() > 0


def test_nothing_of_a_released_round_stays_in_the_sites_work_folder(
    agent: Agent, coordinator: Coordinator
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert list((coordinator.member.home / "work").iterdir()) == []


def test_a_round_that_is_released_is_not_trained_again(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    plan_sha256 = coordinator.show_plan(coordinator.plan())
    for counter in (1, 2):
        coordinator.point(counter, plan_sha256)
        ticks(agent)
    assert trainer.jobs == 1


def test_a_rank_above_the_policy_is_declined_with_the_reason(agent: Agent, coordinator: Coordinator) -> None:
    adapter = ADAPTER.model_copy(update={"rank": 8})
    coordinator.point(1, coordinator.show_plan(coordinator.plan(adapter=adapter)))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, answer.reason) == ("decline", "rank 8 is above the policy's 4")


def test_a_declined_plan_is_not_trained(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(sites=("movies",))))
    ticks(agent)
    assert (trainer.jobs, coordinator.update()) == (0, None)


def test_more_steps_than_the_policy_allows_are_accepted_and_done_with_less(
    agent: Agent, coordinator: Coordinator
) -> None:
    local = LocalConfig(lr=0.02, steps=50, batch_size=2)
    coordinator.point(1, coordinator.show_plan(coordinator.plan(local=local)))
    ticks(agent)
    answer, update = coordinator.answer(), coordinator.update()
    assert answer is not None
    assert update is not None
    assert (answer.decision, answer.steps, update.steps) == ("less", 3, 3)


def test_a_deadline_that_has_passed_is_declined(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(deadline=time.time() - 1)))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, answer.reason) == ("decline", "the plan's deadline has passed")


def test_a_base_that_expands_to_another_adapter_fails_with_a_public_reason(
    agent: Agent, coordinator: Coordinator
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(frozen_sha256="0" * 64)))
    ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert (update.failed, update.payload) == ("A as expanded here is not the plan's", None)


def test_training_stops_when_the_round_is_over(member: Membership, coordinator: Coordinator) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        ticks(agent)
        coordinator.point(2, None)
        ticks(agent)
        assert (trainer.jobs, trainer.cancelled) == (1, 1)


def test_training_stops_when_the_deadline_passes(member: Membership, coordinator: Coordinator) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        coordinator.point(1, coordinator.show_plan(coordinator.plan(deadline=time.time() + 1)))
        agent.tick()
        time.sleep(1.1)
        agent.tick()
        assert (trainer.jobs, trainer.cancelled) == (1, 1)


def test_a_round_that_is_over_is_not_begun_again_for_a_plan_that_waited(
    member: Membership, coordinator: Coordinator
) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        plan_sha256 = coordinator.show_plan(coordinator.plan())
        for counter, sha256 in enumerate([plan_sha256, plan_sha256, None], start=1):
            coordinator.point(counter, sha256)  # the second one as after a coordinator's restart
            agent.tick()
        ticks(agent)
        assert trainer.jobs == 1


def test_a_round_that_ended_while_the_store_was_away_is_not_begun(
    member: Membership, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        agent.tick()  # the card is shown
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        with monkeypatch.context() as away:
            away.setattr(agent.mailbox.store, "put", lose)
            with pytest.raises(ExchangeError, match="the store is away"):
                agent.tick()
        coordinator.point(2, None)
        ticks(agent)
        assert trainer.jobs == 0


def lose(_key: str, _data: bytes) -> None:
    raise ExchangeError("the store is away")


def test_a_roster_without_this_sites_keys_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    roster = Roster(
        federation=coordinator.config.name,
        sender=COORDINATOR,
        receiver=EVERYONE,
        roster_version=2,
        coordinator=coordinator.me.public,
        sites=(),
    )
    publish_roster(coordinator.mailbox.store, roster, coordinator.me)
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with pytest.raises(RefusedError, match="the roster does not hold this site's keys"):
        agent.tick()


def test_a_head_of_a_lower_epoch_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None, epoch=5)
    agent.tick()
    coordinator.point(2, None, epoch=4)
    with pytest.raises(RefusedError, match="epoch/fed 4 is below 5"):
        agent.tick()


def test_a_replayed_head_of_a_lower_counter_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None)
    replayed = coordinator.mailbox.store.get(coordinator.mailbox.layout.head, limit=Head.largest)
    agent.tick()
    coordinator.point(2, None)
    agent.tick()
    coordinator.mailbox.store.put(coordinator.mailbox.layout.head, replayed)
    with pytest.raises(RefusedError, match="head/fed 1 is below 2"):
        agent.tick()


def test_a_head_replayed_after_a_restart_is_refused(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(2, None)
    with closing(Agent(member, trainer)) as before:
        before.tick()
    coordinator.point(1, None)
    with closing(Agent(member, trainer)) as after, pytest.raises(RefusedError, match="head/fed 1 is below 2"):
        after.tick()


def test_a_refused_head_is_refused_once_and_the_agent_goes_on(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(2, None)
    agent.tick()
    coordinator.point(1, None)
    with pytest.raises(RefusedError):
        agent.tick()
    agent.tick()
    coordinator.point(3, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert coordinator.update() is not None


def test_a_second_plan_for_the_same_round_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    coordinator.point(2, coordinator.show_plan(coordinator.plan(rounds=4)))
    with pytest.raises(RefusedError, match=f"a second plan for round 1 of {RUN}"):
        agent.tick()


def test_a_plan_whose_hash_is_not_the_heads_is_refused(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.show_plan(coordinator.plan())
    coordinator.point(1, "0" * 64)
    with pytest.raises(RefusedError, match=r"not the one that head\.json names"):
        agent.tick()
    agent.tick()
    assert (trainer.jobs, coordinator.answer()) == (0, None)


def test_a_plan_signed_by_another_key_is_refused(
    agent: Agent, coordinator: Coordinator, tmp_path: Path
) -> None:
    impostor = create_identity(tmp_path / "impostor", COORDINATOR)
    coordinator.point(1, coordinator.show_plan(coordinator.plan(), impostor))
    with pytest.raises(RefusedError, match="signature is not coordinator's"):
        agent.tick()


def test_a_plan_of_an_epoch_above_the_heads_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(epoch=2)))
    with pytest.raises(RefusedError, match=r"from an epoch above head\.json's"):
        agent.tick()


def fail_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The store loses the first upload; returns what was to be uploaded, whatever came of it."""
    seen: list[bytes] = []
    store = agent.mailbox.store
    put_file: Callable[[str, Path], Any] = store.put_file

    def flaky(key: str, path: Path) -> Any:  # noqa: ANN401 - as the original
        seen.append(path.read_bytes())
        if len(seen) == 1:
            raise ExchangeError("the store is away")
        return put_file(key, path)

    monkeypatch.setattr(store, "put_file", flaky)
    return seen


def test_after_a_lost_upload_the_identical_bytes_are_sent_and_nothing_is_trained_again(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    uploads = fail_once(agent, monkeypatch)
    ticks(agent)
    assert coordinator.update() is None
    agent.tick()
    assert coordinator.update() is not None
    assert (len(uploads), uploads[0] == uploads[-1], trainer.jobs) == (2, True, 1)


def test_a_restarted_agent_sends_what_its_predecessor_committed_and_trains_nothing(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with closing(Agent(member, trainer)) as before:
        committed = fail_once(before, monkeypatch)
        ticks(before)
    with closing(Agent(member, trainer)) as after:
        ticks(after)
    payload = coordinator.mailbox.layout.payload(SITE, RUN, 1)
    assert coordinator.mailbox.store.get(payload, limit=1_000_000) == committed[0]
    assert coordinator.update() is not None
    assert trainer.jobs == 1


def test_a_second_agent_for_the_same_home_is_refused(agent: Agent, bench: Workbench) -> None:
    with pytest.raises(IdentityError, match="runs already: stop it first"):
        Agent(agent.member, CountingTrainer(bench))


def test_a_closed_agent_says_goodbye(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    Agent(member, trainer).close()
    card = coordinator.mailbox.read(coordinator.mailbox.layout.card(SITE), Card, member.identity.public)
    assert card.message.state == "stopped"
