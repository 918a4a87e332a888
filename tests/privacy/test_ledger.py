"""A site's ledger: what may be reserved and charged, once, and across runs and federations."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from fedllm.errors import BudgetError, EquivocationError, LedgerError
from fedllm.privacy import budget
from fedllm.privacy.accounting import Event, epsilon
from fedllm.privacy.chain import verify_chain
from fedllm.privacy.ledger import Ledger, Limits
from tests.privacy.ledger_home import CHEAP, DATA, ME, MINE, charge, ledger_at, reserve, trained, who
from tests.privacy.spent import committed_events, spent_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(ledger_at(path)) as ledger:
        yield ledger


def test_what_was_charged_is_there_for_the_next_process(path: Path) -> None:
    with closing(ledger_at(path)) as first:
        told = trained(first)
    with closing(ledger_at(path)) as again:
        assert again.entries(DATA, show=None) == told
        assert again.verify() == {DATA: told[-1].head}


def test_only_its_owner_reads_the_file(ledger: Ledger, path: Path) -> None:
    trained(ledger)
    assert {file.stat().st_mode & 0o777 for file in path.parent.glob("ledger.db*")} == {0o600}


def test_every_commit_waits_for_the_disk(ledger: Ledger) -> None:
    """WAL with synchronous=FULL (2); less loses charges when the power fails, which no test can play."""
    with ledger._chains._file.transaction(writes=False) as connection:
        told = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        ]
    assert told == ["wal", 2]


def test_nothing_is_there_at_first(ledger: Ledger) -> None:
    assert (ledger.head(DATA), ledger.entries(DATA, show=None), ledger.datasets()) == (None, [], [])


def test_reserving_again_is_the_same_reservation(ledger: Ledger) -> None:
    assert reserve(ledger) == reserve(ledger)
    assert len(ledger.state(DATA).reservations) == 1


def test_reserving_again_costs_nothing_even_where_twice_would_be_too_much(ledger: Ledger) -> None:
    plan = Event(0.05, 0.8, 200)
    tight = Limits(7.8, 1e-5)
    assert reserve(ledger, event=plan, limit=tight) == reserve(ledger, event=plan, limit=tight)


@pytest.mark.parametrize(
    "other", [{"plan": "b" * 64}, {"event": Event(0.01, 4.0, 101)}, {"event": Event(0.01, 3.9, 100)}]
)
def test_another_plan_for_the_same_run_is_refused(ledger: Ledger, other: dict[str, object]) -> None:
    reserve(ledger)
    with pytest.raises(EquivocationError, match="another privacy plan"):
        reserve(ledger, **other)  # type: ignore[arg-type]  # one of several


def test_another_unit_than_the_data_sets_is_refused(ledger: Ledger) -> None:
    reserve(ledger)
    with pytest.raises(BudgetError, match="accounted for by record, this training by person"):
        reserve(ledger, "run-2", unit="person")
    assert reserve(ledger, "run-2", unit="person", dataset="ward-8").dataset == "ward-8"


def test_charging_again_is_the_same_charge(ledger: Ledger, path: Path) -> None:
    reserve(ledger)
    once = charge(ledger, 1)
    assert charge(ledger, 1) == once
    with closing(ledger_at(path)) as again:
        assert charge(again, 1) == once
    assert spent_events(ledger.entries(DATA, show=None)) == [Event(0.01, 4.0, 10)]


@pytest.mark.parametrize(("first", "steps"), [(0, 9), (0, 11), (9, 1), (5, 10)])
def test_steps_that_overlap_a_charge_are_refused(ledger: Ledger, first: int, steps: int) -> None:
    reserve(ledger)
    charge(ledger, 1)
    with pytest.raises(EquivocationError, match="charged already"):
        charge(ledger, 1, first=first, steps=steps)


def test_steps_beyond_the_reserved_are_refused(ledger: Ledger) -> None:
    reserve(ledger)
    for number in range(1, 11):
        charge(ledger, number)
    with pytest.raises(BudgetError, match="the privacy plan's steps are spent: 100 of 100"):
        charge(ledger, 11, steps=1)
    assert charge(ledger, 10).steps == 10


def test_nothing_is_charged_without_a_reservation(ledger: Ledger) -> None:
    with pytest.raises(BudgetError, match="has no open reservation"):
        charge(ledger, 1)
    reserve(ledger)
    for other in ({"run": "run-2"}, {"federation": "other"}, {"dataset": "ward-8"}):
        with pytest.raises(BudgetError, match="has no open reservation"):
            charge(ledger, 1, **other)  # type: ignore[arg-type]  # one of several


def test_a_new_run_settles_its_federations_earlier_ones_alone(ledger: Ledger) -> None:
    trained(ledger, 3)
    reserve(ledger, "run-1", federation="other")
    reserve(ledger, "run-2")
    settled = [(r.settled, r.charged) for r in ledger.state(DATA).reservations.values()]
    assert settled == [(True, 30), (False, 0), (False, 0)]
    entries = ledger.entries(DATA, show=None)
    assert committed_events(entries) == [Event(0.01, 4.0, 230)]
    assert verify_chain(entries, MINE) == ledger.head(DATA)


def test_a_settled_run_reserves_anew_before_it_charges_and_keeps_its_charges(ledger: Ledger) -> None:
    trained(ledger, 3)
    reserve(ledger, "run-2")
    with pytest.raises(BudgetError, match="has no open reservation"):
        charge(ledger, 4)
    with pytest.raises(BudgetError, match="has no open reservation"):
        charge(ledger, 3)
    renewed = reserve(ledger)
    assert charge(ledger, 3).seq < renewed.seq  # paid before, and not again
    assert charge(ledger, 4).seq > renewed.seq
    assert spent_events(ledger.entries(DATA, show=None), "run-1") == [Event(0.01, 4.0, 40)]


def test_what_was_charged_for_one_noise_pays_for_no_other(ledger: Ledger) -> None:
    trained(ledger, 3)
    reserve(ledger, "run-2")
    reserve(ledger, plan="b" * 64, event=Event(0.01, 1.0, 100))
    with pytest.raises(EquivocationError, match="round 3 of run-1 was charged by another privacy plan"):
        charge(ledger, 3)


def test_a_refused_training_leaves_nothing_behind(ledger: Ledger) -> None:
    trained(ledger)
    before = ledger.head(DATA)
    with pytest.raises(BudgetError):
        reserve(ledger, "run-2", event=Event(0.05, 0.8, 2000))
    assert ledger.head(DATA) == before
    assert charge(ledger, 4).steps == 10  # run-1 was not settled either


# Budgets in earnest: FACTS' plan of epsilon 7.70 at delta 1e-5, and others around it.
FULL = Event(0.05, 0.8, 200)


def test_one_training_may_spend_all_by_pld(ledger: Ledger) -> None:
    assert epsilon([FULL], 1e-5) == pytest.approx(7.70, abs=5e-3)
    with pytest.raises(BudgetError, match=r"may spend epsilon 7\.7.*the budget of ward-7 is epsilon 7\.6"):
        reserve(ledger, event=FULL, limit=Limits(7.6, 1e-5))
    assert reserve(ledger, event=FULL, limit=Limits(7.71, 1e-5)).steps == 200


def test_a_site_without_a_limit_of_its_own_keeps_account_all_the_same(ledger: Ledger) -> None:
    for run in ("run-1", "run-2", "run-3"):
        reserve(ledger, run, event=FULL, limit=Limits(None, 1e-5))
    assert len(ledger.state(DATA).reservations) == 3


def test_a_second_training_passes_by_the_filter_where_summing_would_refuse(ledger: Ledger) -> None:
    """Four trainings of epsilon 1.83 each: 7.3 summed, 4 composed; the limit of 5 lets them in."""
    plan, limit = Event(0.01, 1.0, 1000), Limits(5.0, 1e-5)
    assert epsilon([plan], 1e-5) == pytest.approx(1.828, abs=5e-4)
    for number in range(1, 5):
        reserve(ledger, federation=f"fed-{number}", event=plan, limit=limit)
    assert 4 * epsilon([plan], 1e-5) > 5 > epsilon([plan] * 4, 1e-5)


def test_the_filter_stops_where_renyi_divergence_of_one_order_reaches_the_budget(ledger: Ledger) -> None:
    """The number of trainings let in is what dp-accounting says by itself at the filter's order."""
    plan, limit = Event(0.01, 1.0, 1000), Limits(5.0, 1e-5)
    order = budget.filter_order(plan, limit)

    def by_itself(trainings: int) -> float:
        accountant = RdpAccountant([order])
        accountant.compose(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0)), 1000 * trainings)
        return float(accountant.get_epsilon(1e-5))

    fits = max(n for n in range(1, 40) if by_itself(n) <= 5.0)
    assert fits > 4
    for number in range(1, fits + 1):
        reserve(ledger, federation=f"fed-{number}", event=plan, limit=limit)
    with pytest.raises(
        BudgetError, match=r"4\.597 is spent or promised, .* 1\.829, together 5\.065 by the Rényi"
    ):
        reserve(ledger, federation="one-more", event=plan, limit=limit)


def test_the_filters_order_loses_little_against_the_best_of_all_orders() -> None:
    plan, limit = Event(0.01, 1.0, 1000), Limits(8.0, 1e-5)
    many = Event(0.01, 1.0, 13_000)
    best = RdpAccountant()
    best.compose(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0)), 13_000)
    at_one = budget.filter_epsilon([many], budget.filter_order(plan, limit), 1e-5)
    assert 1.0 <= at_one / best.get_epsilon(1e-5) < 1.02


def test_the_filters_order_follows_from_the_first_plan_and_not_from_what_came_after(ledger: Ledger) -> None:
    asked: list[Event] = []
    order = budget.filter_order

    def noted(first: Event, limits: Limits) -> float:
        asked.append(first)
        return order(first, limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "filter_order", noted)
        trained(ledger, 3, run="run-1")
        trained(ledger, 3, run="run-2", event=Event(0.02, 4.0, 50))
        reserve(ledger, "run-3", event=Event(0.03, 4.0, 50))
    assert asked == [CHEAP, CHEAP]


def test_no_second_training_passes_where_the_first_was_beyond_the_filter_however_early_it_stopped(
    ledger: Ledger,
) -> None:
    """7.70 by PLD fits in 7.75, its Rényi bound does not: two rules would each take a delta of their own."""
    limit = Limits(7.75, 1e-5)
    reserve(ledger, event=FULL, limit=limit)
    charge(ledger, 1, steps=1)
    with pytest.raises(BudgetError, match=r"the first ones were planned for 8\."):
        reserve(ledger, "run-2", event=Event(0.001, 4.0, 1), limit=limit)


def test_what_was_promised_and_never_begun_is_no_first_training(ledger: Ledger) -> None:
    limit = Limits(7.75, 1e-5)
    reserve(ledger, event=FULL, limit=limit)
    assert reserve(ledger, "run-2", event=FULL, limit=limit).steps == 200


def test_a_promise_to_another_federation_counts_before_it_is_charged(ledger: Ledger) -> None:
    limit = Limits(7.75, 1e-5)
    reserve(ledger, event=FULL, limit=limit)
    with pytest.raises(BudgetError):
        reserve(ledger, federation="other", event=Event(0.001, 4.0, 1), limit=limit)


def test_a_settled_training_counts_for_what_it_charged(ledger: Ledger) -> None:
    plan, limit = Event(0.01, 1.0, 6000), Limits(6.0, 1e-5)
    reserve(ledger, "run-1", event=plan, limit=limit)
    charge(ledger, 1, steps=100)
    with pytest.raises(BudgetError):
        reserve(ledger, "run-1", federation="other", event=plan, limit=limit)
    assert reserve(ledger, "run-2", event=plan, limit=limit).steps == 6000


def test_data_sets_have_budgets_of_their_own(ledger: Ledger) -> None:
    for dataset in ("ward-7", "ward-8"):
        reserve(ledger, event=FULL, limit=Limits(7.75, 1e-5), dataset=dataset)
    assert ledger.datasets() == ["ward-7", "ward-8"]


@pytest.mark.parametrize("total", [1e9, None])
def test_no_noise_fits_in_no_budget(ledger: Ledger, total: float | None) -> None:
    with pytest.raises(BudgetError, match="without noise"):
        reserve(ledger, event=Event(0.01, 0.0, 1), limit=Limits(total, 1e-5))


def test_a_federation_sees_others_spending_and_not_whose_it_is(ledger: Ledger) -> None:
    trained(ledger, 2, federation="other", run="their-run")
    trained(ledger, 2)
    shown = ledger.entries(DATA, show="fed")
    assert verify_chain(shown, MINE) == ledger.head(DATA)
    assert [bool(e.context) for e in shown] == [False] * 4 + [True] * 3
    text = "".join(entry.model_dump_json() for entry in shown)
    assert "their-run" not in text
    assert '"other"' not in text
    assert spent_events(shown) == [Event(0.01, 4.0, 40)]


def test_a_new_key_is_vouched_for_by_the_former_one(path: Path) -> None:
    new = who("amazon-2")
    with closing(ledger_at(path)) as before:
        known = trained(before)
    with closing(ledger_at(path, new, [who("unused"), ME])) as after:
        charge(after, 4)
        shown = after.entries(DATA, show="fed")
        assert [entry.kind for entry in shown[5:]] == ["rekey", "charge"]
        assert verify_chain(shown, new.public.verify, earlier=known) == after.head(DATA)
    with closing(ledger_at(path)) as old, pytest.raises(LedgerError, match="does not know this site's key"):
        charge(old, 5)


def test_a_new_key_that_no_former_one_vouches_for_cannot_go_on(path: Path) -> None:
    with closing(ledger_at(path)) as before:
        trained(before)
    with closing(ledger_at(path, who("movies"))) as stranger:
        with pytest.raises(LedgerError, match="Put the former key back"):
            charge(stranger, 4)
        with pytest.raises(LedgerError, match="Put the former key back"):
            reserve(stranger, "run-2")


def test_what_one_home_charged_pays_for_no_update_of_another(path: Path) -> None:
    """Both were asked in one round, and both had answered before either charged."""
    second = who("amazon-b")
    with closing(ledger_at(path)) as ours, closing(ledger_at(path, second)) as theirs:
        reserve(ours)
        ours.admit(DATA, second.public.verify)
        assert reserve(theirs) == reserve(ours)
        paid = charge(ours, 1)
        with pytest.raises(EquivocationError, match="charged by another of the owner's homes"):
            charge(theirs, 1)
        assert charge(ours, 1) == paid
        assert charge(theirs, 2).by == second.public.verify
        with pytest.raises(EquivocationError, match="charged by another of the owner's homes"):
            charge(ours, 2)


def test_a_charge_by_a_former_key_is_this_homes_own(path: Path) -> None:
    new = who("amazon-new")
    with closing(ledger_at(path)) as before:
        reserve(before)
        paid = charge(before, 1)
    with closing(Ledger(path, new, iter([ME]))) as after:
        assert charge(after, 1) == paid


def test_homes_of_one_owner_share_a_file_once_one_admits_the_other(path: Path) -> None:
    second = who("amazon-b")
    with closing(ledger_at(path)) as ours, closing(ledger_at(path, second)) as theirs:
        trained(ours)
        ours.admit(DATA, second.public.verify)
        reserve(theirs, "run-9", federation="other")
        charge(theirs, 1, run="run-9", federation="other")
        charge(ours, 4)
        charge(theirs, 2, run="run-9", federation="other")
        shown = ours.entries(DATA, show="fed")
        assert shown[-1].by == MINE  # what it can vouch for
        assert verify_chain(shown, MINE).seq == 8
        assert verify_chain(theirs.entries(DATA, show="other"), second.public.verify).seq == 9
        assert ours.verify() == theirs.verify()
