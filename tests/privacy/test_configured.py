"""A configuration's privacy becomes one set of terms, which plans, the audit and a site's accounts go by."""

import pytest

from fedllm.auditing import canaries, held_out
from fedllm.auditing import site as audit
from fedllm.config import FederationConfig
from fedllm.privacy.accounting import Event
from fedllm.privacy.configured import configured_privacy, whole_training
from fedllm.protocol.terms import PrivacyPlan, PrivateTerms, SiteTerms


def config(**privacy: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "name": "terms",
            "task": {"kind": "text"},
            "rounds": {"max": 3, "min_sites": 4},
            "local": {"steps": 5},
            "privacy": {"epsilon": 9.0, "delta": 1e-6, "clip": 0.5, "noise_multiplier": 2.0} | privacy,
        }
    )


PERSON = config(
    unit="person",
    unit_field="who",
    max_per_person=2,
    sampling_rate=0.02,
    sites={"movies": {"sampling_rate": 0.01}, "amazon": {"noise_multiplier": 3.0}},
)


def test_every_term_comes_from_the_configuration_and_sites_that_differ_have_their_own() -> None:
    plan = configured_privacy(PERSON)
    assert plan == PrivacyPlan(
        sampling_rate=0.02,
        noise_multiplier=2.0,
        unit="person",
        unit_field="who",
        max_per_person=2,
        epsilon=9.0,
        delta=1e-6,
        clip=0.5,
        rounds=3,
        steps=5,
        min_honest=4,
        sites={
            "amazon": SiteTerms(sampling_rate=0.02, noise_multiplier=3.0),
            "movies": SiteTerms(sampling_rate=0.01, noise_multiplier=2.0),
        },
    )
    assert list(plan.sites) == ["amazon", "movies"]  # in the order that its signed bytes have
    assert whole_training(plan, "movies") == Event(0.01, 2.0, 15)
    assert whole_training(plan, "nyt") == Event(0.02, 2.0, 15)


def test_where_whole_sites_are_the_unit_a_round_is_one_step_of_rate_1() -> None:
    plan = configured_privacy(config(unit="site", min_honest=3))
    assert (plan.sampling_rate, plan.steps, plan.rounds, plan.min_honest) == (1.0, 1, 3, 3)
    assert whole_training(plan, "amazon") == Event(1.0, 2.0, 3)


def test_the_audit_trains_by_the_terms_that_a_plan_gives_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[PrivateTerms] = []
    monkeypatch.setattr(audit, "_learner", lambda *_: None)
    monkeypatch.setattr(audit, "_records", lambda *_: [])
    monkeypatch.setattr(canaries, "audit_training", lambda *given, **_: trained.append(given[3]))
    monkeypatch.setattr(held_out, "attack_membership", lambda *given, **_: trained.append(given[3]))
    subject = audit.Subject("movies", *[audit.Path("nowhere")] * 3)
    audit.one_run(PERSON, subject)
    audit.membership_report(PERSON, subject)
    terms = PrivateTerms("person", 0.01, 2.0, 0.5, unit_field="who", max_per_person=2, min_honest=4)
    assert trained == [terms, terms]
