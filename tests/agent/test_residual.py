"""What fp16 takes away stays at the site and goes into its next update, whatever crashes come between."""

from collections.abc import Iterator
from contextlib import closing
from unittest import mock

import pytest
import torch

from fedllm.agent.agent import Agent
from fedllm.agent.job import Job
from fedllm.agent.join import Membership
from fedllm.agent.plan_faults import fault_of
from fedllm.errors import ExchangeError
from fedllm.exchange.mailbox import Mailbox
from fedllm.models.codec import codec_named, decode_flat, encode_flat
from fedllm.protocol.terms import PrivacyPlan
from tests.agent.crashing import Crash
from tests.agent.played import RUN, SITE, Coordinator, CountingTrainer, ticks

FP16 = codec_named("fp16")


class Recording:
    """A trainer in this process that keeps each update as it was before it was encoded."""

    def __init__(self, trainer: CountingTrainer) -> None:
        self.trainer = trainer
        self.updates: list[torch.Tensor] = []
        self.poll, self.cancel = trainer.poll, trainer.cancel

    def start(self, job: Job) -> None:
        def encode(update: torch.Tensor, residual: torch.Tensor | None) -> tuple[bytes, torch.Tensor | None]:
            self.updates.append(update.clone())
            return plain(update, residual)

        plain = FP16.encode
        with mock.patch.object(FP16, "encode", encode):
            self.trainer.start(job)


@pytest.fixture
def recording(trainer: CountingTrainer) -> Recording:
    return Recording(trainer)


@pytest.fixture
def half(member: Membership, recording: Recording) -> Iterator[Agent]:
    with closing(Agent(member, recording)) as agent:
        yield agent


def files(coordinator: Coordinator) -> set[str]:
    return {path.name for path in (coordinator.member.home / "work").iterdir()}


def residual(coordinator: Coordinator, number: int) -> torch.Tensor:
    path = coordinator.member.home / "work" / f"{RUN}-{number}.residual"
    return decode_flat(path.read_bytes(), coordinator.model.size)


def point(coordinator: Coordinator, number: int, counter: int = 0) -> None:
    """Ask for a round in fp16."""
    plan = coordinator.plan(number, codec="fp16")
    coordinator.point(counter or number, coordinator.show_plan(plan), number=number)


def arrived(coordinator: Coordinator, number: int) -> torch.Tensor:
    """The round's update as the coordinator decodes it."""
    update = coordinator.update(number)
    assert update is not None
    assert update.failed is None
    assert update.payload is not None
    return FP16.decode(coordinator.opened(update.payload), coordinator.model.size)


def test_what_one_round_loses_the_next_takes_along(
    half: Agent, coordinator: Coordinator, recording: Recording
) -> None:
    for number in (1, 2):
        point(coordinator, number)
        ticks(half)
        assert files(coordinator) == {f"{RUN}-{number}.residual"}
    first, second = recording.updates
    meant = (first.double() + second.double()).float()
    left = residual(coordinator, 2)
    assert float(left.abs().max()) > 0
    got = arrived(coordinator, 1).double() + arrived(coordinator, 2).double() + left.double()
    torch.testing.assert_close(got.float(), meant, rtol=0, atol=1e-8)  # a half is 1e-5 apart here
    without, _ = FP16.encode(second, None)
    assert not torch.equal(FP16.decode(without, len(second)), arrived(coordinator, 2))


def test_an_update_in_fp16_takes_half_the_bytes(half: Agent, coordinator: Coordinator) -> None:
    point(coordinator, 1)
    ticks(half)
    update = coordinator.update()
    assert update is not None
    assert update.payload is not None
    assert update.payload.bytes == len(encode_flat(torch.zeros(coordinator.model.size // 2)))


def test_the_residual_is_for_its_owner_alone(half: Agent, coordinator: Coordinator) -> None:
    point(coordinator, 1)
    ticks(half)
    path = coordinator.member.home / "work" / f"{RUN}-1.residual"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_leaves_the_former_residual_before_the_commit_and_the_new_one_after_it(
    half: Agent, coordinator: Coordinator, recording: Recording, member: Membership, when: str
) -> None:
    point(coordinator, 1)
    ticks(half)
    former = residual(coordinator, 1)
    commit = half.memory.commit

    def crash(*values: object) -> None:
        if when == "after":
            commit(*values)
        raise Crash

    half.memory.commit = crash
    point(coordinator, 2)
    half.tick()
    with pytest.raises(Crash):
        half.tick()
    assert files(coordinator) >= {f"{RUN}-1.residual", f"{RUN}-2.residual"}
    made = residual(coordinator, 2)
    sealed = (member.home / "work" / f"{RUN}-2.sealed").read_bytes()
    half.memory.close()
    half._lock.release()
    with closing(Agent(member, recording)) as again:
        expected = {f"{RUN}-1.residual", f"{RUN}-2.residual", f"{RUN}-2.sealed"}
        assert files(coordinator) == ({f"{RUN}-1.residual"} if when == "before" else expected)
        ticks(again)
        assert files(coordinator) == {f"{RUN}-2.residual"}
    jobs = 2 if when == "after" else 3
    assert len(recording.updates) == jobs
    # Trained on the same records from the same model, both are the same but for which residual they took.
    data, left = FP16.encode(recording.updates[-1], former)
    assert torch.equal(arrived(coordinator, 2), FP16.decode(data, len(former)))
    assert left is not None
    assert torch.equal(residual(coordinator, 2), left)
    if when == "after":
        assert torch.equal(left, made)
        assert coordinator.mailbox.store.get(update_key(coordinator), limit=1 << 20) == sealed


def update_key(coordinator: Coordinator) -> str:
    return coordinator.mailbox.layout.payload(SITE, RUN, 2)


def test_a_site_that_misses_rounds_keeps_its_residual(
    half: Agent, coordinator: Coordinator, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    point(coordinator, 1)
    ticks(half)
    former = residual(coordinator, 1)
    declined = coordinator.plan(2, codec="fp16", sites=("nyt",), weights={"nyt": 1})
    coordinator.point(2, coordinator.show_plan(declined), number=2)
    ticks(half)
    failing = mock.Mock(side_effect=ExchangeError("the store is away"))
    with monkeypatch.context() as patch:  # and one whose model never comes
        patch.setattr(Mailbox, "fetch_payload", failing)
        point(coordinator, 3)
        with pytest.raises(ExchangeError):
            half.tick()
    coordinator.point(4, coordinator.show_plan(coordinator.plan(4, rounds=4, codec="fp16")), number=4)
    ticks(half)
    assert len(recording.updates) == 2
    data, _ = FP16.encode(recording.updates[1], former)
    assert torch.equal(arrived(coordinator, 4), FP16.decode(data, len(former)))


def test_a_residual_goes_when_its_run_is_over_or_another_begins(
    half: Agent, coordinator: Coordinator
) -> None:
    point(coordinator, 1)
    ticks(half)
    assert files(coordinator) == {f"{RUN}-1.residual"}
    coordinator.point(2, None, number=0)
    half.tick()
    assert files(coordinator) == set()
    point(coordinator, 2, counter=3)
    ticks(half)
    assert files(coordinator) == {f"{RUN}-2.residual"}
    other = coordinator.plan(1, run="run-b")
    sha256 = coordinator.show(coordinator.mailbox.layout.plan("run-b", 1), other)
    coordinator.point(4, sha256, number=1, run="run-b")
    half.tick()
    assert files(coordinator) & {f"{RUN}-2.residual"} == set()


class Overflowing(CountingTrainer):
    """Trains to a number that no half can hold."""

    def start(self, job: Job) -> None:
        with mock.patch("fedllm.models.adapter.read_flat") as read:
            read.side_effect = lambda tensors: torch.full((sum(t.numel() for t in tensors),), 1e5)
            super().start(job)


def test_a_number_beyond_the_format_fails_the_round_at_the_site_in_one_line(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    with closing(Agent(member, Overflowing(trainer._bench))) as agent:
        point(coordinator, 1)
        ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert update.payload is None
    assert update.failed is not None
    assert "beyond the 65504 of fp16" in update.failed
    assert "\n" not in update.failed
    assert files(coordinator) == set()


def test_a_codec_that_the_site_does_not_know_is_declined(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(codec="top-k")))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, answer.reason) == ("decline", "the codec top-k is not known here")


def test_a_plan_that_hides_whole_sites_and_rounds_their_updates_is_no_honest_one(
    agent: Agent, coordinator: Coordinator
) -> None:
    privacy = PrivacyPlan(
        unit="site",
        epsilon=8.0,
        delta=1e-5,
        clip=0.1,
        rounds=3,
        steps=1,
        sampling_rate=1.0,
        noise_multiplier=1.0,
    )
    layout, base, roster = agent.mailbox.layout, agent.worker.base, {SITE}
    faults = [
        fault_of(coordinator.plan(privacy=privacy, codec=codec), layout, base, roster)
        for codec in ("fp32", "fp16")
    ]
    assert faults == [None, "with privacy by site, updates must be sent as fp32, not as fp16"]


def test_a_plan_with_less_room_than_its_codec_needs_is_no_honest_one(
    agent: Agent, coordinator: Coordinator
) -> None:
    layout, base, roster = agent.mailbox.layout, agent.worker.base, {SITE}

    def fault(codec: str, most_bytes: int) -> str | None:
        plan = coordinator.plan(codec=codec, most_bytes=most_bytes)
        return fault_of(plan, layout, base, roster)

    size = coordinator.model.size
    assert fault("fp16", 2 * size + 128) is None
    assert "needs more than the plan's" in (fault("fp32", 2 * size + 128) or "")
    assert "needs more than the plan's" in (fault("fp16", 2 * size - 1) or "")
