"""Clocks an hour apart: lateness goes by the store's, and a store that minds says what to do."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from minio import time as signing_time

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.errors import ExchangeError
from fedllm.exchange.minio_store import MinioStore
from tests.agent.crashing import Wired
from tests.agent.played import Coordinator, CountingTrainer, ticks

HOUR = 3600.0
ABOUT_AN_HOUR = r"3(59|60)\d"  # the store tells whole seconds, and its answer takes a while


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_a_site_whose_clock_is_an_hour_off_goes_by_the_stores(
    off: float,
    member: Membership,
    coordinator: Coordinator,
    trainer: CountingTrainer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shifted = SimpleNamespace(time=lambda: time.time() + off, monotonic=time.monotonic)
    for module in ("exchange.clock", "agent.memory", "secure.events"):
        monkeypatch.setattr(f"fedllm.{module}.time", shifted)
    with closing(Agent(member, trainer)) as agent:
        late = coordinator.plan(1, deadline=time.time() - 60)
        coordinator.point(1, coordinator.show_plan(late))
        ticks(agent)
        due = coordinator.plan(2, deadline=time.time() + 60)
        coordinator.point(2, coordinator.show_plan(due), number=2)
        ticks(agent)
    answer = coordinator.answer(1)
    assert answer is not None
    assert answer.reason == "the plan's deadline has passed"
    assert coordinator.update(2) is not None


@contextmanager
def signing_clock(off: float) -> Iterator[None]:
    """This machine's clock, as S3 signatures see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing_time, "utcnow", lambda: datetime.now(UTC) + timedelta(seconds=off))
        yield


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_a_clock_that_the_store_minds_is_named_with_its_seconds(off: float, minio_store: MinioStore) -> None:
    minio_store.put("fed/a", b"x")
    with signing_clock(off):
        for call in (lambda: minio_store.get("fed/a", limit=9), lambda: minio_store.stat("fed/a")):
            with pytest.raises(ExchangeError, match=rf"clock is {ABOUT_AN_HOUR} s from the store's: set it"):
                call()
    assert minio_store.get("fed/a", limit=9) == b"x"


def test_a_site_says_that_its_clock_is_off_and_goes_on_once_it_is_set(
    minio_store: MinioStore,
    coordinator: Coordinator,
    trainer: CountingTrainer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = coordinator.member
    member = Wired(known.site, known.home, known.identity, known.invitation, minio_store)
    mailbox = coordinator.mailbox
    for key in (mailbox.layout.roster, coordinator.sealed_model().key):
        minio_store.put(key, mailbox.store.get(key, limit=1 << 20))
    coordinator.mailbox = type(mailbox)(minio_store, mailbox.layout, mailbox.me)
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    stop = threading.Event()
    with closing(Agent(member, trainer)) as agent, caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=agent.run, args=(stop,))
        with signing_clock(HOUR):
            thread.start()
            wait_for(lambda: "set it (NTP)" in caplog.text)
            assert trainer.jobs == 0
        try:
            wait_for(lambda: coordinator.update() is not None)
        finally:
            stop.set()
            thread.join()
    assert re.search(rf"this machine's clock is {ABOUT_AN_HOUR} s", caplog.text)


def wait_for(happened: Callable[[], bool], patience: float = 80.0) -> None:
    until = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)
