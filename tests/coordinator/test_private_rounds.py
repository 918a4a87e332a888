"""dp-audit under differential privacy: real ledgers of played sites, and what dishonest ones show."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fedllm.config import FederationConfig
from fedllm.coordinator.aggregate import aggregate
from fedllm.coordinator.next_round import over
from fedllm.coordinator.payloads import read_model, read_update
from fedllm.coordinator.training import open_training
from fedllm.errors import RoundError
from fedllm.journal.ledgers import known_heads, verify_ledgers
from fedllm.journal.outcomes import Audited, FailedRound, Released
from fedllm.models.codec import decode_flat, encode_flat
from fedllm.privacy.accounting import Event, epsilon
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.messages import Plan, Verdict
from fedllm.protocol.terms import PrivacyPlan
from tests.coordinator.played import PlayedRound, PlayedSite, begin_round

RECORD = {
    "unit": "record",
    "epsilon": 4.0,
    "clip": 0.5,
    "sampling_rate": 0.1,
    "delta": 1e-5,
    "noise_multiplier": 1.0,  # what `auto` comes to is the accounting's test
}
LOCAL = {"optimizer": "sgd", "lr": 0.1, "steps": 3, "batch_size": 16}
FREE = Limits(None, 1e-5)


def terms_of(plan: Plan) -> PrivacyPlan:
    assert plan.privacy is not None
    return plan.privacy


class Book:
    """A played site's ledger, and the update that it accounts for."""

    def __init__(self, site: PlayedSite, folder: Path) -> None:
        self.site = site
        self.ledger = Ledger(folder / f"{site.name}-ledger.db", site.me)

    def reserve(self, plan: Plan, **changes: Any) -> None:  # noqa: ANN401 - any term
        terms = terms_of(plan)
        told = {
            "plan_sha256": terms.sha256,
            "event": Event(terms.sampling_rate, terms.noise_multiplier, terms.rounds * terms.steps),
            "delta": terms.delta,
        } | changes
        self.ledger.reserve(
            self.site.name, terms.unit, federation=plan.federation, run=plan.run or "", limit=FREE, **told
        )

    def charge(self, plan: Plan, steps: int | None = None) -> None:
        self.ledger.charge(
            self.site.name,
            federation=plan.federation,
            run=plan.run or "",
            round=plan.round,
            first=0,
            steps=steps or terms_of(plan).steps,
        )

    def shown(self, plan: Plan) -> tuple[LedgerEntry, ...]:
        heads = plan.ledgers.get(self.site.name, ())
        after = max((head.seq for head in heads), default=-1)
        return tuple(self.ledger.entries(self.site.name, after=after, show=plan.federation))

    def account(self, plan: Plan) -> tuple[LedgerEntry, ...]:
        self.reserve(plan)
        self.charge(plan)
        return self.shown(plan)


def noise_of(plan: Plan) -> float:
    """Standard deviation of honest noise in each number of an update by plain SGD."""
    terms = terms_of(plan)
    step = plan.local.lr * terms.noise_multiplier * terms.clip / plan.local.batch_size
    return (
        float(step * plan.local.steps**0.5) if terms.unit != "site" else terms.noise_multiplier * terms.clip
    )


def send(
    round_: PlayedRound,
    name: str,
    ledger: tuple[LedgerEntry, ...],
    scale: float = 1.1,
    **changes: Any,  # noqa: ANN401
) -> None:
    plan, site = round_.plan, round_.sites[name]
    size = (plan.most_bytes - 64 * 1024) // 4
    flat = torch.randn(size) * noise_of(plan) * scale
    site.answer(plan, round_.plan_sha256)
    payload = site.payload(plan, encode_flat(flat))
    quiet: dict[str, Any] = {"examples": None, "loss": None, "seconds": None, "ledger": ledger}
    site.update(plan, round_.plan_sha256, payload, **quiet | changes)


Played = dict[str, PlayedSite]


@contextmanager
def private_round(
    config: FederationConfig, sites: Played, privacy: dict[str, Any] | None = None
) -> Iterator[PlayedRound]:
    raw = config.model_dump() | {"privacy": privacy or RECORD, "local": LOCAL}
    raw["rounds"] = raw["rounds"] | {"max": 4, "min_sites": 1}
    private = FederationConfig.model_validate(raw)
    with open_training(private, "run-1", Path(config.evaluation.public)) as training:
        yield begin_round(training, sites)


def next_round(round_: PlayedRound) -> PlayedRound:
    """The round after one that was closed and then failed: that is how a test gets there without training."""
    training = round_.training
    failed = FailedRound(reason="over")
    training.journal.once("run-1", round_.number, "failed", FailedRound, lambda: failed)
    return begin_round(training, round_.sites, round_.number + 1)


def audited(round_: PlayedRound) -> dict[str, Verdict]:
    return {verdict.site: verdict for verdict in round_.audit().verdicts}


@pytest.fixture
def books(sites: Played, tmp_path: Path) -> dict[str, Book]:
    return {name: Book(site, tmp_path) for name, site in sites.items()}


def test_epsilon_is_recomputed_from_each_sites_own_ledger(
    config: FederationConfig, sites: Played, books: dict[str, Book]
) -> None:
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan))
        found = audited(round_)
        terms = terms_of(round_.plan)
        spent = epsilon([Event(terms.sampling_rate, terms.noise_multiplier, 3)], 1e-5)
    for verdict in found.values():
        assert verdict.accepted, verdict.reason
        assert verdict.epsilon == pytest.approx(spent)
        assert "of 4 at delta 1e-05, by record, add-remove" in verdict.privacy
        assert set(verdict.checks.values()) == {"pass"}


def test_the_next_plan_names_the_heads_and_sites_show_what_came_since(
    config: FederationConfig, sites: Played, books: dict[str, Book]
) -> None:
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan))
        round_.audit()
        later = next_round(round_)
        assert {name: heads[0].seq for name, heads in later.plan.ledgers.items()} == dict.fromkeys(sites, 2)
        assert later.plan.privacy == round_.plan.privacy
        for name, book in books.items():
            shown = book.account(later.plan)
            assert len(shown) == 1
            send(later, name, shown)
        assert all(verdict.accepted for verdict in audited(later).values())
        rows = verify_ledgers(later.training.journal)
    assert [row["verdict"] for row in rows] == ["whole"] * 3


def edited(entries: tuple[LedgerEntry, ...]) -> tuple[LedgerEntry, ...]:
    return (*entries[:-1], entries[-1].model_copy(update={"steps": 1}))


@pytest.mark.parametrize(
    ("fault", "failed", "said"),
    [
        ("silent", "chain", "sent no privacy ledger"),
        ("edited", "chain", "was edited"),
        ("torn", "chain", "where entry 1 is due"),
        ("quieter noise", "events", "another sampling rate or noise"),
        ("another plan", "events", "another privacy plan"),
        ("another delta", "events", "another delta"),
        ("uncharged", "events", "charges 0 steps of round 1"),
        ("undercharged", "events", "charges 2 steps of round 1"),
    ],
)
def test_a_site_whose_ledger_does_not_cover_its_update_is_left_out_and_named(  # noqa: PLR0913, PLR0917 - a case's fields
    config: FederationConfig, sites: Played, books: dict[str, Book], fault: str, failed: str, said: str
) -> None:
    with private_round(config, sites) as round_:
        plan, book = round_.plan, books["nyt"]
        terms = terms_of(plan)
        changes: dict[str, Any] = {}
        if fault == "quieter noise":
            changes["event"] = Event(terms.sampling_rate, terms.noise_multiplier / 2, 12)
        elif fault == "another plan":
            changes["plan_sha256"] = "0" * 64
        elif fault == "another delta":
            changes["delta"] = 1e-6
        book.reserve(plan, **changes)
        if fault != "uncharged":
            book.charge(plan, 2 if fault == "undercharged" else None)
        shown = book.shown(plan)
        shown = {"silent": (), "edited": edited(shown), "torn": shown[:1] + shown[2:]}.get(fault, shown)
        send(round_, "nyt", shown)
        for name in ("amazon", "movies"):
            send(round_, name, books[name].account(plan))
        found = audited(round_)
    assert said in found["nyt"].reason
    assert found["nyt"].checks[failed] == "fail"
    assert {name for name, verdict in found.items() if verdict.accepted} == {"amazon", "movies"}


def test_a_forked_ledger_is_left_out(
    config: FederationConfig, sites: Played, books: dict[str, Book], tmp_path: Path
) -> None:
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan))
        round_.audit()
        later = next_round(round_)
        (tmp_path / "elsewhere").mkdir()
        fork = Book(sites["nyt"], tmp_path / "elsewhere")  # a second ledger that knows nothing of round 1
        fork.reserve(later.plan)
        fork.charge(later.plan)
        send(later, "nyt", tuple(fork.ledger.entries("nyt", show="played")))
        for name in ("amazon", "movies"):
            send(later, name, books[name].account(later.plan))
        found = audited(later)
        kept = known_heads(later.training.journal, ["nyt"])["nyt"][0]
    assert "forked or rolled back" in found["nyt"].reason
    assert kept.seq == 2


def test_an_update_with_less_noise_than_the_plans_is_left_out_where_the_law_is_known(
    config: FederationConfig, sites: Played, books: dict[str, Book]
) -> None:
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan), scale=0.2 if name == "nyt" else 1.0)
        found = audited(round_)
    assert "less noise than the plan asks for" in found["nyt"].reason
    assert (found["nyt"].checks["noise"], found["amazon"].checks["noise"]) == ("fail", "pass")
    assert found["nyt"].epsilon is not None  # what was charged is spent, whether the update counts or not


def test_the_noise_is_not_observable_with_adamw(
    config: FederationConfig, sites: Played, books: dict[str, Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOCAL, "optimizer", "adamw")
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan), scale=0.2)
        found = audited(round_)
    assert {verdict.checks["noise"] for verdict in found.values()} == {"not observable"}


def test_an_update_longer_than_clip_steps_and_noise_allow_is_left_out(
    config: FederationConfig, sites: Played, books: dict[str, Book]
) -> None:
    with private_round(config, sites) as round_:
        for name, book in books.items():
            send(round_, name, book.account(round_.plan), scale=20.0 if name == "nyt" else 1.0)
        found = audited(round_)
    assert "which the plan allows" in found["nyt"].reason
    assert found["nyt"].checks["norm"] == "fail"


def test_a_privacy_plan_stays_as_it_was_made_whatever_the_configuration_says_later(
    config: FederationConfig, sites: Played
) -> None:
    with private_round(config, sites) as round_:
        first = round_.plan.privacy
    with private_round(config, sites, RECORD | {"epsilon": 8.0}) as again:
        assert next_round(again).plan.privacy == first


def test_a_site_level_round_divides_by_the_sites_of_the_plan_also_when_one_is_absent(
    config: FederationConfig, sites: Played, books: dict[str, Book]
) -> None:
    privacy = {"unit": "site", "epsilon": 8.0, "clip": 0.1, "delta": 1e-5}
    with private_round(config, sites, privacy) as round_:
        training, plan = round_.training, round_.plan
        for name in ("amazon", "movies"):
            send(round_, name, books[name].account(plan), scale=1.05)
        round_.sites["nyt"].answer(plan, round_.plan_sha256, decision="decline", steps=0, reason="no")
        audit = training.journal.once("run-1", 1, "dp-audit", Audited, round_.audit)
        size = (plan.most_bytes - 64 * 1024) // 4
        counted = [read_update(training, one.payload, 1, plan.most_bytes) for one in audit.counted]
        expected = sum(decode_flat(data, size).double() for data in counted) / 3
        made = aggregate(training, 1)
        before = decode_flat(read_model(training, plan.model), size)
        after = decode_flat(read_model(training, made.model), size)
    assert len(counted) == 2
    assert torch.allclose((after - before).double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fault", "scale", "check"),
    [("none", 1.05, ""), ("no ledger", 1.05, "chain"), ("too long", 20.0, "norm"), ("quiet", 0.5, "noise")],
)
def test_with_a_site_as_the_unit_no_verdict_tells_an_updates_norm(  # noqa: PLR0913, PLR0917 - a case's fields
    config: FederationConfig, sites: Played, books: dict[str, Book], fault: str, scale: float, check: str
) -> None:
    privacy = {"unit": "site", "epsilon": 8.0, "clip": 0.1, "delta": 1e-5}
    with private_round(config, sites, privacy) as round_:
        for name, book in books.items():
            mine = name == "nyt"
            ledger = book.account(round_.plan)
            send(round_, name, () if mine and fault == "no ledger" else ledger, scale if mine else 1.05)
        found = audited(round_)
    assert [verdict.norm for verdict in found.values()] == [None] * 3
    assert found["nyt"].accepted == (fault == "none")
    assert not check or found["nyt"].checks[check] == "fail"
    assert not re.search(r"\d", found["nyt"].reason)


def test_no_round_is_begun_beyond_the_privacy_plan_whoever_insists(
    config: FederationConfig, sites: Played
) -> None:
    with private_round(config, sites) as round_:
        last = terms_of(round_.plan).rounds
        assert over(round_.training, last, force=True) is None
        with pytest.raises(RoundError, match="no round was completed: privacy budget spent"):
            over(round_.training, last + 1, force=True)
        journal, run = round_.training.journal, round_.training.run
        journal.once(run, 1, "release", Released, lambda: Released(queued=True))
        assert over(round_.training, last + 1, force=True) == "privacy budget spent"
