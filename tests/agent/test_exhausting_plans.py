"""Plans that would take all of a site's memory or time, to a real agent with a real training process.

Whatever they ask, no process of the agent's holds more than the site's policy allows, and the site does the
next honest round.
"""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedllm.agent.join import Membership, accept_invitation, init_site, read_card
from fedllm.agent.limits import TOO_MUCH
from fedllm.config import FederationConfig, LocalConfig, TaskConfig
from fedllm.coordinator.members import add_site
from fedllm.data.records import write_records
from fedllm.protocol.messages import Answer, Update
from fedllm.protocol.terms import PrivacyPlan
from tests.agent.hostility import sign_raw
from tests.agent.played import RUN, SITE, WIDE, Coordinator, start_of

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow("an agent starts, and answers some thirty plans"),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not hold the limit"),
]

MEMORY = 640 << 20  # bytes: honest work on the model `tiny` takes about 500 MiB
ROUNDS = 100
ROOM = 60.0  # s for a round, where the agent's start is the longest


@pytest.fixture
def member(config: FederationConfig, tmp_path: Path) -> Membership:
    """A site with the default policy, but for its memory, the rank that it allows, and being alone."""
    data = tmp_path / "amazon.jsonl"
    records = [{"text": "good " * 20_000, "label": "positive"}] * 20  # 100,000 characters each
    write_records(data, records + [{"text": "", "label": "negative"}] * 300)
    policy = {"min_cohort": 1, "max_rank": 256, "max_memory": MEMORY, "max_steps": 1}
    home = tmp_path / SITE
    card = init_site(SITE, data, home, base="tiny", threads=1, policy=policy, poll_near=0.02, poll_idle=0.02)
    invitation = tmp_path / "amazon.invitation"
    invitation.write_bytes(add_site(config, read_card(card)))
    return accept_invitation(invitation, home)


@dataclass
class Peaks:
    """The most memory that each process of an agent ever held, by its id, bytes."""

    by_process: dict[int, int] = field(default_factory=dict)

    def look(self, agent: psutil.Process) -> None:
        for process in (agent, *agent.children(recursive=True)):
            with suppress(OSError, psutil.Error, IndexError):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
                peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
                self.by_process[process.pid] = max(peak, self.by_process.get(process.pid, 0))


@contextmanager
def running(member: Membership, folder: Path) -> Iterator[Peaks]:
    """`fedllm agent`, watched for as long as it runs."""
    command = [sys.executable, "-m", "fedllm", "agent", "--invitation", str(folder / "amazon.invitation")]
    command += ["--home", str(member.home), "--log", str(folder / "agent.log")]
    peaks, stop = Peaks(), threading.Event()
    with subprocess.Popen(command) as process:
        agent = psutil.Process(process.pid)

        def watch() -> None:
            while not stop.wait(0.03):
                with suppress(psutil.Error):
                    peaks.look(agent)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield peaks
            assert process.poll() is None, "the agent has ended"
        finally:
            stop.set()
            watcher.join()
            process.terminate()


@dataclass
class Stage:
    """A coordinator that leads round after round, each signed as it is."""

    coordinator: Coordinator
    log: Path
    number: int = 0

    def _show(self, said: bytes) -> None:
        envelope = sign_raw(said, self.coordinator.me)
        mailbox = self.coordinator.mailbox
        mailbox.store.put(mailbox.layout.plan(RUN, self.number), envelope)
        self.coordinator.point(self.number, hashlib.sha256(envelope).hexdigest(), number=self.number)

    def _until(self, found: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever is waited for
        ends = time.monotonic() + ROOM
        while not (seen := found()):
            assert time.monotonic() < ends, self.log.read_text(encoding="utf-8")[-3000:]
            time.sleep(0.02)
        return seen

    def plan(self, by: Coordinator | None = None, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
        self.number += 1
        changes = {"local": LocalConfig(steps=1, batch_size=2)} | changes
        plan = (by or self.coordinator).plan(self.number, rounds=ROUNDS, **changes)
        fields: dict[str, Any] = plan.model_dump(mode="json", by_alias=True)
        return fields

    def lead(self, plan: dict[str, Any]) -> tuple[Answer, Update | None]:
        """What the site answers, and sends if it takes part."""
        self._show(json.dumps(plan).encode())
        answer = self._until(lambda: self.coordinator.answer(self.number))
        if answer.decision == "decline":
            return answer, None
        return answer, self._until(lambda: self.coordinator.update(self.number))

    def refused(self, said: bytes) -> str:
        """Why the site did not even read it, as its log has it."""
        before = len(self.log.read_text(encoding="utf-8")) if self.log.exists() else 0
        self._show(said)
        return str(self._until(lambda: self._refusal(before)))

    def _refusal(self, before: int) -> str:
        lines = self.log.read_text(encoding="utf-8")[before:].splitlines()
        return next((line for line in lines if "refused: " in line), "")

    def honest(self, **changes: Any) -> None:  # noqa: ANN401 - any field
        """An ordinary round, which the site does."""
        answer, update = self.lead(self.plan(**changes))
        assert (answer.decision, update and update.failed) == ("accept", None), self.number


def changed(plan: dict[str, Any], path: str, value: object) -> bytes:
    """The plan with one thing in it as no model of ours would write it."""
    *parents, last = path.split(".")
    inside = plan
    for part in parents:
        inside = inside[part]
    inside[last] = value
    return json.dumps(plan).encode()


PRIVACY: dict[str, Any] = {
    "unit": "record",
    "epsilon": 1e9,
    "delta": 1e-5,
    "clip": 0.5,
    "rounds": ROUNDS,
    "steps": 1,
    "sampling_rate": 1.0,
    "noise_multiplier": 1.5,
}
LABELS = {"positive": " positive", "negative": " negative"}
DECLINED: list[tuple[dict[str, Any], str]] = [
    ({"local": LocalConfig(batch_size=65_536)}, "a batch of 8388608 tokens is above the policy's 262144"),
    (
        {"task": TaskConfig(labels=LABELS, template="{text} :", max_length=8192)},
        "8192 tokens per record are above the policy's 2048",
    ),
    (
        {"privacy": PrivacyPlan(**PRIVACY | {"rounds": 10**7, "steps": 10**7, "sampling_rate": 0.5})},
        "100000000000000 steps of a privacy plan are above 1000000",
    ),
]
REFUSED: list[tuple[Callable[[dict[str, Any]], bytes], str]] = [
    (lambda plan: changed(plan, "adapter.layers", [0] * 1_000_000), "more than 262144 values"),
    (lambda plan: changed(plan, "adapter.layers", list(range(200_000))), "adapter.layers"),
    (lambda plan: changed(plan, "adapter.targets", ["q_proj"] * 200_000), "adapter.targets"),
    (lambda plan: changed(plan, "adapter.rank", 10**6), "adapter.rank"),
    (lambda plan: changed(plan, "task.template", "{text}" * 200_000), "task.template"),
    (lambda plan: changed(plan, "task.labels", {f"l{n}": "x" for n in range(10_000)}), "task.labels"),
    (lambda plan: changed(plan, "weights", {f"s{n}": 1 for n in range(100_000)}), "more than 10000 fields"),
    (lambda plan: changed(plan, "ledgers", {f"s{n}": [{}] * 1000 for n in range(260)}), "more than"),
    (lambda plan: changed(plan, "privacy", {"sites": {f"s{n}": {} for n in range(9000)}}), "privacy"),
    (lambda plan: changed(plan, "model", {"x": [[]] * 120_000}), "model"),
    (lambda _plan: b"[" * 200_000 + b"]" * 200_000, "nested too deeply"),
]


def test_no_plan_takes_more_memory_than_the_policy_allows_and_honest_work_follows_each(
    member: Membership, coordinator: Coordinator, tmp_path: Path
) -> None:
    stage = Stage(coordinator, tmp_path / "agent.log")
    (tmp_path / "wide").mkdir()
    wide = Coordinator(coordinator.config, member, start_of(WIDE), tmp_path / "wide")
    with running(member, tmp_path) as peaks:
        stage.honest()
        for asked, reason in DECLINED:
            answer, _ = stage.lead(stage.plan(**asked))
            assert (answer.decision, answer.reason) == ("decline", reason)
            stage.honest()
        for said, reason in REFUSED:
            assert reason in stage.refused(said(stage.plan()))
            stage.honest()
        answer, update = stage.lead(stage.plan(local=LocalConfig(steps=100_000, batch_size=2048)))
        assert (answer.decision, update and update.steps) == ("less", 1)
        repeated = TaskConfig(labels=LABELS, template="{text}" * 3000)  # 300 MB of each long record
        stage.honest(task=repeated, local=LocalConfig(steps=1, batch_size=320))
        # What only the limit itself stops, of the kernel's.
        terms = {"privacy": PrivacyPlan(**PRIVACY), "local": LocalConfig(optimizer="sgd", steps=1)}
        for _ in range(2):
            answer, update = stage.lead(stage.plan(by=wide, adapter=WIDE, **terms))
            assert (answer.decision, update and update.failed) == (
                "accept",
                "training failed; the site's own log says why",
            )
            stage.honest(**terms)
    assert stage.log.read_text(encoding="utf-8").count(f"training failed: {TOO_MUCH}") == 2
    assert len(peaks.by_process) > 3  # the agent, the server of warm processes, and more than one of these
    assert max(peaks.by_process.values()) < MEMORY, peaks
