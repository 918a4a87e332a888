"""Each gate on what MLflow holds of a version."""

import random
from contextlib import closing
from typing import Any

import pytest
from sklearn.metrics import f1_score

from fedllm.privacy.accounting import epsilon
from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.terms import rounded_up
from fedllm.review.gate import Gate
from fedllm.review.gates import Rules, audit, budget, first_failed, gates
from fedllm.review.ledger_gate import ledger
from fedllm.review.quality import quality
from fedllm.review.version_facts import VersionFacts
from fedllm.tracking.privacy_record import ledgers_sha256
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers, public_answers
from tests.privacy.ledger_home import charge, ledger_at, reserve, trained
from tests.privacy.spent import spent_events

NO_DP = {"dp.epsilon": "not configured", "dp.epsilon_budget": "not configured"}


def answers(right: list[bool], public: str = "set") -> PublicAnswers:
    records = [{"text": f"{public} {n}"} for n in range(len(right))]
    found = public_answers(records, [Judged(1.0, "a", "a" if one else "b") for one in right])
    assert found is not None
    return found


def told(right: list[bool]) -> dict[str, str]:
    return {"eval.accuracy": repr(sum(right) / len(right)), "public.records": str(len(right))}


def version(number: str = "2", right: list[bool] | None = None, **changes: Any) -> VersionFacts:  # noqa: ANN401
    tags = {
        "fed.sites": "amazon,movies",
        **NO_DP,
        **(told(right) if right else {}),
        **changes.pop("tags", {}),
    }
    fields: dict[str, Any] = {
        "name": "fed",
        "version": number,
        "run_id": "r",
        "tags": tags,
        "answers": answers(right) if right else None,
        "site_rows": ({"site": "amazon", "verdict": "accepted"}, {"site": "movies", "verdict": "accepted"}),
        "privacy_unit": "none",
    }
    return VersionFacts(**(fields | changes))


def share(right: int, of: int) -> list[bool]:
    return [n < right for n in range(of)]


# Quality, against a champion.


def test_a_few_records_worse_is_no_reason_to_refuse() -> None:
    gate = quality(version(right=share(79, 100)), version("1", right=share(80, 100)), 0.0)
    assert gate.verdict == "pass"
    assert "-1.0 points of accuracy (95 %: -" in gate.says
    assert "paired on 100 records" in gate.says
    assert "0 and 1, exact McNemar p = 1" in gate.says


def test_a_challenger_that_is_surely_worse_is_refused() -> None:
    gate = quality(version(right=share(70, 100)), version("1", right=share(80, 100)), 0.0)
    assert gate.verdict == "fail"
    assert gate.says.startswith("worse than the champion: -10.0 points")


def test_what_may_be_lost_is_not_held_against_it() -> None:
    new, old = version(right=share(70, 100)), version("1", right=share(80, 100))
    assert quality(new, old, 0.05).verdict == "pass"
    assert quality(new, old, 0.01).verdict == "fail"


def test_pairs_see_a_loss_that_two_shares_do_not() -> None:
    new, old = share(384, 400), share(391, 400)
    champion = version("1", right=old)
    assert quality(version(right=new), champion, 0.0).verdict == "fail"
    alone = quality(version(right=new, answers=None), champion, 0.0)
    assert alone.verdict == "pass"
    assert "not paired, for answers are not on record: on 400 and 400 records" in alone.says


def test_another_public_set_is_not_paired() -> None:
    old = version("1", right=share(80, 100), answers=answers(share(80, 100), "another"))
    gate = quality(version(right=share(81, 100)), old, 0.0)
    assert gate.verdict == "pass"
    assert "different public sets" in gate.says


def test_the_pairs_are_by_record_and_not_by_count() -> None:
    order = random.Random(3).sample(range(100), 100)
    mixed = [n < 80 for n in order]
    even = quality(version(right=share(70, 100)), version("1", right=mixed), 0.0)
    assert even.verdict == "pass", "many records went each way: the ten fewer may be chance"


def test_without_counts_a_better_one_is_not_observable_and_a_worse_one_is_refused() -> None:
    old = version("1", tags={"eval.accuracy": "0.8"})
    gate = quality(version(tags={"eval.accuracy": "0.9"}), old, 0.0)
    assert (gate.verdict, "no interval" in gate.says) == ("not observable", True)
    assert quality(version(tags={"eval.accuracy": "0.7"}), old, 0.0).verdict == "fail"


def test_a_task_without_right_answers_is_compared_by_its_losses() -> None:
    def by_loss(number: str, losses: list[float]) -> VersionFacts:
        kept = PublicAnswers(public_sha256="a" * 64, records=len(losses), losses=tuple(losses))
        return version(number, answers=kept, tags={"eval.loss": repr(sum(losses) / len(losses))})

    old = by_loss("1", [1.0, 2.0, 3.0, 4.0])
    better = quality(by_loss("2", [0.9, 1.8, 2.9, 3.8]), old, 0.0)
    assert better.verdict == "pass"
    assert "+0.1500 of loss saved (95 %: +0.0581 to +0.2419; paired on 4 records" in better.says
    worse = by_loss("2", [1.1, 2.2, 3.1, 4.2])
    assert quality(worse, old, 0.0).verdict == "fail"
    assert quality(worse, old, 0.2).verdict == "pass"
    unsure = by_loss("2", [0.2, 2.9, 3.3, 3.8])
    assert quality(unsure, old, 0.0).verdict == "pass"


def by_macro_f1(number: str, right: list[bool], **tags: str) -> VersionFacts:
    """A version of a training whose metric that counts is macro F1; half of the records are of a label."""
    rows = [Judged(1.0, "ab"[n % 2], "ab"[(n + (not one)) % 2]) for n, one in enumerate(right)]
    kept = public_answers([{"text": f"set {n}"} for n in range(len(right))], rows, ("labels",))
    value = repr(f1_score([one.expected for one in rows], [one.given for one in rows], average="macro"))
    named = {"public.metric": "macro_f1", "eval.macro_f1": value, "eval_baseline.macro_f1": "0.5", **tags}
    return version(number, right=right, answers=kept, tags=named)


def test_the_metric_that_a_version_names_is_the_one_that_counts() -> None:
    gate = quality(by_macro_f1("2", share(70, 100)), by_macro_f1("1", share(80, 100)), 0.0)
    assert gate.verdict == "fail"
    assert "points of macro F1 (95 %: -" in gate.says
    assert "paired on 100 records, percentile bootstrap" in gate.says
    assert quality(by_macro_f1("2", share(80, 100)), None, 0.0).verdict == "pass"


def test_a_champion_that_was_not_measured_by_it_is_compared_by_the_tasks_own_metric() -> None:
    gate = quality(by_macro_f1("2", share(81, 100)), version("1", right=share(80, 100)), 0.0)
    assert gate.verdict == "pass"
    assert "+1.0 points of accuracy" in gate.says
    back = quality(version("3", right=share(81, 100)), by_macro_f1("2", share(80, 100)), 0.0)
    assert "+1.0 points of accuracy" in back.says


@pytest.mark.parametrize("named", ["bleu", "loss", ""])
def test_a_metric_that_a_version_names_and_does_not_have_fails(named: str) -> None:
    old = version("1", right=share(10, 100))
    new = by_macro_f1("2", share(90, 100), **{"public.metric": named})
    assert quality(new, old, 0.0).verdict == "fail"


# Quality, where there is no champion.


@pytest.mark.parametrize(("accuracy", "verdict"), [("0.81", "pass"), ("0.8", "fail"), ("0.5", "fail")])
def test_the_first_champion_must_be_better_than_zero_shot(accuracy: str, verdict: str) -> None:
    facts = version(
        tags={"eval.accuracy": accuracy, "eval_baseline.accuracy": "0.8", "public.records": "100"}
    )
    gate = quality(facts, None, 0.5)
    assert gate.verdict == verdict
    assert "zero-shot" in gate.says


def test_zero_shot_is_paired_where_its_answers_are_kept() -> None:
    facts = version(
        right=share(9, 10), zero_shot=answers(share(5, 10)), tags={"eval_baseline.accuracy": "0.5"}
    )
    assert "paired on 10 records" in quality(facts, None, 0.0).says


def test_a_number_that_is_none_is_no_metric() -> None:
    old = version("1", tags={"eval.loss": "1.0"})
    for told_loss in ("nan", "inf", "soon"):
        assert quality(version(tags={"eval.loss": told_loss}), old, 0.0).verdict == "fail"
    broken = {"eval.accuracy": "nan", "public.records": "10"}
    assert quality(version(tags=broken), version("1", right=share(8, 10)), 0.0).verdict == "fail"


def test_a_version_without_metrics_is_refused() -> None:
    assert quality(version(), None, 0.0).verdict == "fail"
    assert quality(version(), version("1", right=share(8, 10)), 0.0).verdict == "fail"


# Budget.


def private(spent: str, most: str = "3", **changes: Any) -> VersionFacts:  # noqa: ANN401 - any field
    tags = {"dp.epsilon": spent, "dp.epsilon_budget": most, "dp.delta": "1e-05", "dp.remaining_pct": "2.3"}
    tags |= {"dp.arithmetic": "exact"} | changes.pop("tags", {})
    return version(privacy_unit="record", tags=tags, **changes)


@pytest.mark.parametrize(
    ("spent", "verdict"),
    [
        ("2.93", "pass"),
        ("3", "pass"),
        ("3.0", "pass"),
        ("3.001", "fail"),
        ("inf", "fail"),
        ("nan", "fail"),
        ("not observable", "fail"),
    ],
)
def test_a_training_keeps_to_its_budget(spent: str, verdict: str) -> None:
    gate = budget(private(spent), Rules())
    assert gate.verdict == verdict
    assert f"epsilon {spent} of 3 at delta 1e-05" in gate.says


def test_an_epsilon_of_before_the_exact_arithmetic_is_none() -> None:
    gate = budget(private("1", tags={"dp.arithmetic": ""}), Rules())
    assert gate.verdict == "fail"
    assert "trained before 0.2, so its privacy claims are not valid" in gate.says
    assert not version().void


def test_a_budget_of_more_digits_than_are_shown_is_kept_to() -> None:
    assert budget(private(rounded_up(1.234275), most="1.2345"), Rules()).verdict == "pass"
    assert budget(private("1.236", most="1.2345"), Rules()).verdict == "fail"


def test_no_dp_is_never_a_pass_and_refuses_only_where_somebody_asks_for_it() -> None:
    free = budget(version(), Rules())
    assert (free.verdict, free.says) == ("not observable", "no DP configured: no budget applies")
    assert budget(version(privacy_unit="record"), Rules()).verdict == "fail"
    assert budget(version(), Rules(asks_privacy=True)).verdict == "fail"
    assert budget(version(privacy_unit=None), Rules()).verdict == "fail"


# Audit.


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (None, "no sites.json"),
        ((), "dp-audit's verdict on amazon, movies is not on record"),
        (({"site": "amazon", "verdict": "accepted"},), "dp-audit's verdict on movies is not on record"),
        (
            ({"site": "amazon", "verdict": "accepted"}, {"site": "movies", "verdict": "norm: 9 above 3"}),
            "movies counts but was not accepted: norm: 9 above 3",
        ),
    ],
)
def test_every_site_that_counts_was_accepted(rows: Any, words: str) -> None:  # noqa: ANN401 - a table
    gate = audit(version(site_rows=rows))
    assert gate.verdict == "fail"
    assert words in gate.says


def test_which_sites_count_is_read_from_the_table_where_it_says_so() -> None:
    names = [f"hospital-{number:03}" for number in range(600)]
    rows = [{"site": name, "counts": True, "verdict": "accepted"} for name in names]
    rows.append({"site": "late", "counts": False, "verdict": "silent: no answer"})
    cut = {"fed.sites": ",".join(names)[:5000]}
    assert audit(version(site_rows=tuple(rows), tags=cut)).verdict == "pass"
    rows[500]["verdict"] = "norm: 9 above 3"
    gate = audit(version(site_rows=tuple(rows), tags=cut))
    assert (gate.verdict, "hospital-500 counts but was not accepted" in gate.says) == ("fail", True)


def test_a_site_that_was_left_out_may_have_failed() -> None:
    rows = [{"site": site, "verdict": "accepted"} for site in ("amazon", "movies")]
    gate = audit(version(site_rows=(*rows, {"site": "nyt", "verdict": "silent: no answer"})))
    assert (gate.verdict, gate.says) == ("pass", "accepted: amazon, movies; left out: nyt")


def test_with_dp_a_ledger_that_was_not_seen_is_refused() -> None:
    rows = [{"site": "amazon", "verdict": "accepted"}, {"site": "movies", "verdict": "accepted"}]
    assert audit(private("1", site_rows=tuple(rows))).verdict == "pass"
    rows[1] |= {"not_observable": "noise, chain, accounting"}
    gate = audit(private("1", site_rows=tuple(rows)))
    assert (gate.verdict, gate.says) == (
        "fail",
        "movies counts but its ledger was not seen: chain, accounting",
    )
    assert audit(version(site_rows=tuple(rows))).verdict == "pass", "without DP there is no ledger to see"


def test_a_version_that_names_no_site_is_refused() -> None:
    assert audit(version(tags={"fed.sites": ""})).verdict == "fail"


# Ledger.


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[LedgerEntry]:
    """The real ledger of a site that took part in this training and in another federation's."""
    with closing(ledger_at(tmp_path_factory.mktemp("ledger") / "ledger.db")) as kept:
        trained(kept)
        reserve(kept, run="other", federation="elsewhere")
        charge(kept, 1, run="other", federation="elsewhere", steps=50)
        return kept.entries("ward-7", show="fed")


def accounted(entries: list[LedgerEntry], **changes: Any) -> VersionFacts:  # noqa: ANN401 - any field
    spent = epsilon(spent_events(entries, "run-1"), 1e-5)
    tags = {
        "fed.run": "run-1",
        "fed.sites": "amazon",
        "dp.ledger_sha256": ledgers_sha256({"amazon": [entries[-1].head]}),
    }
    kept = {"amazon": tuple(entry.model_dump_json() for entry in entries)}
    fields = {"ledgers": kept, "tags": tags | changes.pop("tags", {})}
    return private(changes.pop("spent", rounded_up(spent)), **(fields | changes))


def test_ledgers_are_followed_added_up_and_held_against_the_tags(entries: list[LedgerEntry]) -> None:
    facts = accounted(entries)
    gate = ledger(facts)
    assert gate.verdict == "pass"
    assert gate.says == f"7 valid signed entries of 1 sites, epsilon {facts.tags['dp.epsilon']}"


def test_missing_ledgers_are_refused(entries: list[LedgerEntry]) -> None:
    assert "of every site is missing" in ledger(accounted(entries, ledgers=None)).says
    both = accounted(entries, tags={"fed.sites": "amazon,movies"})
    gate = ledger(both)
    assert (gate.verdict, "the ledger of movies is missing" in gate.says) == ("fail", True)


def test_a_ledger_that_is_not_the_tags_is_refused(entries: list[LedgerEntry]) -> None:
    shorter = {"amazon": tuple(entry.model_dump_json() for entry in entries[:-1])}
    gate = ledger(accounted(entries, ledgers=shorter))
    assert (gate.verdict, "dp.ledger_sha256" in gate.says) == ("fail", True)


def test_an_edited_ledger_is_refused(entries: list[LedgerEntry]) -> None:
    fewer = [e if e.kind != "charge" else e.model_copy(update={"steps": 1}) for e in entries]
    gate = ledger(accounted(entries, ledgers={"amazon": tuple(e.model_dump_json() for e in fewer)}))
    assert (gate.verdict, "was edited" in gate.says) == ("fail", True)


def test_a_version_that_claims_less_than_its_ledgers_is_refused(entries: list[LedgerEntry]) -> None:
    gate = ledger(accounted(entries, spent="0.01"))
    assert (gate.verdict, "the version says 0.01" in gate.says) == ("fail", True)


def test_ledgers_that_charge_nothing_to_the_training_are_refused(entries: list[LedgerEntry]) -> None:
    for changes in ({"tags": {"fed.run": "run-9"}}, {"name": "copied"}):
        gate = ledger(accounted(entries, spent="1e-09", **changes))
        assert (gate.verdict, gate.says) == ("fail", "the ledger of amazon charges nothing to this training")


def test_ledgers_above_the_budget_are_refused_whatever_the_tag_says(entries: list[LedgerEntry]) -> None:
    gate = ledger(accounted(entries, tags={"dp.epsilon_budget": "0.01"}))
    assert (gate.verdict, "the training may spend 0.01" in gate.says) == ("fail", True)


def test_without_dp_there_is_no_ledger() -> None:
    assert ledger(version()).verdict == "not observable"


# All of them.


def test_the_first_gate_that_fails_is_the_reason() -> None:
    facts = version(right=share(70, 100), site_rows=None, files=Gate("files", "pass", "signed"))
    found = gates(facts, version("1", right=share(80, 100)), Rules())
    assert [gate.verdict for gate in found] == ["pass", "fail", "not observable", "fail", "not observable"]
    assert first_failed(found) == found[1]
    unchecked = gates(version(), None, Rules())[0]
    assert (unchecked.name, unchecked.verdict) == ("files", "fail"), "nobody has looked at its files"
    assert first_failed([Gate("budget", "not observable", "no DP configured")]) is None
