"""Hostile updates, drawn by seed: none is accepted, none is a crash, each has its reason on record.

A case is an honest update that is spoilt in one to three ways, signed by the site's own real key wherever
the site is the hostile one.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fedllm.config import FederationConfig
from fedllm.coordinator.dp_audit import _as_planned, _verdict
from fedllm.coordinator.members import add_site
from fedllm.coordinator.training import open_training
from fedllm.data.records import write_records
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.outcomes import SiteOutcome
from fedllm.models.codec import CODECS
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Verdict
from fedllm.secure.identity import create_identity
from tests.coordinator.hostile_ways import HOSTILE, KINDS, Case, encoded, envelope
from tests.coordinator.played import SITES, PlayedRound, PlayedSite, begin_round
from tests.tiers import by_tier

CASES = by_tier(60, 500)  # beside each way alone
DRAWN = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)


def send(case: Case) -> None:
    """Seal, describe, sign and upload what the spoilt case says."""
    plan, site = case.round_.plan, case.site
    site.answer(plan, case.round_.plan_sha256)
    data = encoded(case.flat, case.codec) if case.data is None else case.data
    payload = site.payload(plan, data, case.recipient)
    told = {
        **site.head(plan),
        "schema": "fedllm.update/1",
        "plan_sha256": case.round_.plan_sha256,
        "failed": None,
        "payload": payload.model_dump() | case.described,
        "steps": plan.local.steps,
        "examples": 8,
        "loss": 1.0,
        "seconds": 1.0,
    } | case.told
    raw = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
    raw = case.raw(raw) if case.raw else raw
    wrapped = envelope(raw, case.signer or site.me)
    site.store.put(
        site.mailbox.layout.update(HOSTILE, plan.run or "", plan.round),
        case.wire(wrapped) if case.wire else wrapped,
    )


def judge(case: Case) -> tuple[SiteOutcome, Verdict]:
    """What the coordinator makes of it: it waits, pins, and audits."""
    round_ = case.round_
    outcome = round_.wait(HOSTILE)
    if case.after:
        case.after()
    planned = _as_planned(round_.plan, outcome, len(case.flat), 1.0)
    return outcome, _verdict(round_.training, round_.plan, outcome, planned)


def clear(round_: PlayedRound) -> None:
    store = round_.training.mailbox.store
    for there in list(store.list(round_.training.layout.round_prefix(HOSTILE, round_.training.run, 1))):
        store.delete(there.key)


@pytest.fixture(scope="module", params=list(CODECS))
def round_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedRound]:
    """One round of each codec under way, its deadline far: every case is played against it."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        public = folder / "public.jsonl"
        write_records(public, [{"id": "1", "text": "a lovely day", "label": "positive"}])
        config = FederationConfig.model_validate(
            {
                "name": "hostile",
                "model": {"base": "tiny"},
                "task": {"labels": {"positive": " positive", "negative": " negative"}},
                "evaluation": {"public": str(public)},
                "rounds": {"deadline": 3600},
                "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
                "codec": request.param,
                "store": {"url": f"file://{folder / 'store'}"},
            }
        )
        sites = {}
        for name in SITES:
            me = create_identity(folder / name, name)
            add_site(config, me.public)
            store = DirectoryStore(folder / "store")
            sites[name] = PlayedSite(me, store, Mailbox(store, Layout(config.name), me), folder / name)
        with open_training(config, "run-1", Path(public)) as training:
            yield begin_round(training, sites)


@CASES
def test_no_hostile_update_is_accepted_and_each_has_its_reason(
    round_: PlayedRound, part: int, count: int
) -> None:
    @seed(part)
    @settings(DRAWN, derandomize=False, max_examples=count)
    @given(st.data(), st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True))
    def attack(data: st.DataObject, kinds: list[Callable[[Case], None]]) -> None:
        refuse(round_, data, kinds)

    attack()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(DRAWN, max_examples=3)
@given(data=st.data())
def test_each_way_alone_is_refused(
    round_: PlayedRound, kind: Callable[[Case], None], data: st.DataObject
) -> None:
    refuse(round_, data, [kind])


def refuse(round_: PlayedRound, data: st.DataObject, kinds: list[Callable[[Case], None]]) -> None:
    """Play one case and hold what the coordinator makes of it against the rule."""
    security = round_.training.journal.security
    size = round_.training.learner().shared.layout.size
    case = Case(round_, round_.sites[HOSTILE], data.draw, torch.full((size,), 1e-4))
    for kind in kinds:
        kind(case)
    before = sum(event.times for event in security.events())
    try:
        send(case)
        outcome, verdict = judge(case)
    finally:
        clear(round_)
    assert not verdict.accepted
    assert verdict.reason
    assert "\n" not in verdict.reason
    if outcome.status in {"updated", "refused"}:
        assert sum(event.times for event in security.events()) > before


def test_after_all_of_it_the_honest_go_on(round_: PlayedRound) -> None:
    """The same sites, the hostile one reformed: all three updates count."""
    round_.take_part()
    audited = round_.audit()
    assert [counted.site for counted in audited.counted] == list(SITES)
