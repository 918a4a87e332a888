"""The second implementation reads what private federations showed, and what they did not."""

import json
from decimal import ROUND_CEILING, Context
from typing import Any

import numpy as np
import pytest

from tests.protocol import independent as ind
from tests.protocol import independent_age as age
from tests.protocol import independent_noise as noise
from tests.protocol import independent_privacy as priv
from tests.protocol.independent_ledger import Book, events_of, read_chain
from tests.protocol.private_federation import BY_RECORD, BY_SITE, EARLIER
from tests.protocol.recorded import ROUNDS, RUN, SITES, Recorded
from tests.protocol.test_independent import SIZE, opened, rounds, said, secret

Said = dict[str, Any]


def pin(federation: Recorded) -> str:
    return str(json.loads((federation.home("east") / "coordinator-fed.json").read_text())["verify"])


def keys(federation: Recorded) -> dict[str, str]:
    roster, _ = said(federation, pin(federation), "coordinator/roster.json", "roster")
    return {site["name"]: site["verify"] for site in roster["sites"]}


def update(federation: Recorded, site: str, number: int) -> Said:
    data = federation.sites[f"fed/sites/{site}/{RUN}/{number}/update.json"]
    return ind.open_envelope(data, "fedllm.update/1", keys(federation)[site], round=number, run=RUN)


def plan_and_verdicts(federation: Recorded, number: int) -> tuple[Said, dict[str, Said]]:
    (plan, _), (closed, _), _ = rounds(federation, pin(federation), number)
    return plan, {verdict["site"]: verdict for verdict in closed["verdicts"]}


def book(federation: Recorded, site: str, number: int) -> Book:
    """A site's chain as it was shown up to a round."""
    known: list[Said] = []
    for earlier in range(1, number + 1):
        shown = update(federation, site, earlier)["ledger"]
        known = read_chain(shown, keys(federation)[site], known).entries
    return read_chain([], keys(federation)[site], known)


@pytest.fixture(params=["by_record", "by_site"])
def private(request: pytest.FixtureRequest) -> Recorded:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_every_plan_of_a_run_has_the_same_privacy_word_for_word(private: Recorded) -> None:
    plans = [plan_and_verdicts(private, number)[0]["privacy"] for number in range(1, ROUNDS + 1)]
    assert all(plan == plans[0] for plan in plans)
    wanted = BY_RECORD if plans[0]["unit"] == "record" else BY_SITE
    assert {name: plans[0][name] for name in wanted} == wanted
    assert (plans[0]["rounds"], plans[0]["steps"]) == (ROUNDS, 2 if plans[0]["unit"] == "record" else 1)


def test_a_plan_names_the_head_of_what_the_last_round_showed(private: Recorded) -> None:
    assert plan_and_verdicts(private, 1)[0]["ledgers"] == {}
    for number in range(2, ROUNDS + 1):
        _, verdicts = plan_and_verdicts(private, number - 1)
        named = plan_and_verdicts(private, number)[0]["ledgers"]
        assert named == {site: [told["ledger"]] for site, told in verdicts.items() if told["accepted"]}
        for site, (head,) in named.items():
            newest = book(private, site, number - 1).entries[-1]
            assert head == {"dataset": site, "seq": newest["seq"], "sha256": priv.entry_sha256(newest)}


def test_an_update_shows_what_is_new_of_a_chain_that_covers_it(private: Recorded) -> None:
    for number in range(1, ROUNDS + 1):
        plan, verdicts = plan_and_verdicts(private, number)
        privacy = plan["privacy"]
        taken = [site for site in SITES if verdicts[site]["accepted"]]
        assert len(taken) >= 2
        for site in taken:
            chain = book(private, site, number)
            done = update(private, site, number)
            q, sigma, steps = events_of(chain, plan, done, site)
            terms = privacy["sites"].get(site, privacy)
            assert (q, sigma) == (terms["sampling_rate"], terms["noise_multiplier"])
            assert steps == number * privacy["steps"]
            assert verdicts[site]["ledger"]["sha256"] == priv.entry_sha256(chain.entries[-1])
            assert chain.of_run("fed", RUN)[0].entry["steps"] == privacy["rounds"] * privacy["steps"]
            assert len(done["ledger"]) == (1 if number > 1 else 3 + (2 if len(chain.entries) > 4 else 0))
            assert set(verdicts[site]["checks"].values()) == {"pass"}


def test_the_verdicts_epsilon_is_that_of_the_gaussian_mechanisms_in_the_ledger(by_site: Recorded) -> None:
    for number in range(1, ROUNDS + 1):
        plan, verdicts = plan_and_verdicts(by_site, number)
        for site in ("east", "west"):
            _, sigma, steps = events_of(
                book(by_site, site, number), plan, update(by_site, site, number), site
            )
            expected = noise.gaussian_epsilon(sigma, steps, plan["privacy"]["delta"])
            assert verdicts[site]["epsilon"] == pytest.approx(expected, rel=1e-3)
            up = Context(prec=4, rounding=ROUND_CEILING).create_decimal(verdicts[site]["epsilon"])
            told = verdicts[site]["privacy"]
            assert told.startswith(f"epsilon {float(up):g} of 40 at delta 1e-05, by site")


def test_epsilon_grows_with_the_rounds_and_stays_below_the_plans(by_record: Recorded) -> None:
    spent = [
        {site: told["epsilon"] for site, told in plan_and_verdicts(by_record, number)[1].items()}
        for number in range(1, ROUNDS + 1)
    ]
    for site in SITES:
        assert 0 < spent[0][site] < spent[1][site] <= BY_RECORD["epsilon"]  # type: ignore[operator]
    assert spent[0]["west"] < spent[0]["east"]  # half the sampling rate and more noise


def test_another_federations_training_is_in_the_chain_and_not_named(by_record: Recorded) -> None:
    entries = book(by_record, "north", ROUNDS).entries
    assert [entry["kind"] for entry in entries] == [
        "open",
        "reserve",
        "charge",
        "reserve",
        "charge",
        "charge",
    ]
    assert [entry["context"] is None for entry in entries] == [True] * 3 + [False] * 3
    assert (entries[1]["steps"], entries[2]["steps"]) == (EARLIER.steps, 5)
    data = b"".join(data for key, data in by_record.sites.items() if "/north/" in key)
    shown = json.dumps([update(by_record, "north", number) for number in (1, 2)])
    assert "others" not in shown
    assert "run-x" not in shown
    assert data


def test_a_site_whose_ledger_counts_by_another_unit_declines(by_site: Recorded) -> None:
    for number in range(1, ROUNDS + 1):
        data = by_site.sites[f"fed/sites/north/{RUN}/{number}/answer.json"]
        answer = ind.open_envelope(data, "fedllm.answer/1", keys(by_site)["north"])
        assert (answer["decision"], answer["steps"]) == ("decline", 0)
        assert f"fed/sites/north/{RUN}/{number}/update.json" not in by_site.sites
        told = plan_and_verdicts(by_site, number)[1]["north"]
        assert (told["accepted"], told["epsilon"], told["ledger"]) == (False, None, None)
        assert set(told["checks"].values()) == {"not observable"}


def test_nothing_else_that_rests_on_the_records_is_said(private: Recorded) -> None:
    for key, data in private.sites.items():
        if key.endswith("update.json"):
            site, number = key.split("/")[2], int(key.split("/")[4])
            done = update(private, site, number)
            assert {done[name] for name in ("examples", "loss", "seconds")} == {None}
            assert data == private.sites[key]
    cards = [data for key, data in private.cards if key.endswith("/card.json")]
    assert cards
    for data in cards:
        card = json.loads(ind._unb64(json.loads(data)["payload"]))
        assert (card["examples"], card["progress"]) == (None, None)


def test_the_counted_updates_give_the_reported_model_to_the_bit_by_the_fixed_denominator(
    private: Recorded,
) -> None:
    for number in range(1, ROUNDS + 1):
        (plan, _), (closed, _), (report, _) = rounds(private, pin(private), number)
        round_key = age.unbech32(private.round_keys[number], "age-secret-key-")
        objects, site_key = dict(private.written), secret(private.home("east"))
        before = ind.read_flat(opened(objects[plan["model"]["key"]], plan["model"], site_key), SIZE)
        updates = []
        for counted in closed["counted"]:
            assert counted["weight"] == 1
            data = private.sites[counted["payload"]["key"]]
            updates.append((1, ind.read_flat(opened(data, counted["payload"], round_key), SIZE)))
            norm = float(np.linalg.norm(updates[-1][1].astype(np.float64)))
            verdict = next(told for told in closed["verdicts"] if told["site"] == counted["site"])
            hidden = plan["privacy"]["unit"] == "site"  # a share of the noise alone is in it
            assert verdict["norm"] == (None if hidden else pytest.approx(norm, rel=1e-12))
            done = update(private, counted["site"], number)["steps"]
            model_norm = float(np.linalg.norm(before.astype(np.float64)))
            least = noise.least_norm(plan, counted["site"], done, SIZE)
            assert least is not None
            assert least < norm
            assert norm < noise.largest_norm(plan, counted["site"], done, SIZE, model_norm)
            std = noise.noise_std(plan, counted["site"], done)
            assert 0.8 < norm / (std * SIZE**0.5) < 3  # most of it is noise
        fixed = ind.denominator(plan)
        assert fixed == (3 if plan["privacy"]["unit"] == "site" else None)
        mean = ind.mean(updates, fixed).astype(np.float64)
        after = (before.astype(np.float64) + mean).astype(np.float32)
        assert ind.sha256(ind.write_flat(after)) == report["model"]["sha256"]
        assert len(updates) == (2 if fixed else 3)
