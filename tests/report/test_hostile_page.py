"""A page of what nobody trained: hostile words in every place, and more of everything than a screen holds."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedllm.config import FederationConfig
from fedllm.journal.facts import STEPS, Quality, RoundFacts, SiteInRound, TrainingFacts
from fedllm.protocol.terms import PrivacyPlan
from fedllm.report import render
from fedllm.secure.events import SecurityEvent
from tests.report.conftest import Shown
from tests.report.test_page import Text

Show = Callable[..., Shown]

HOSTILE = (
    """'"><script>window.taken=1</script><img src=x onerror="window.taken=1"><svg/onload=window.taken=1>"""
)
ROUNDS, SILOS, SITES = 40, 14, 30
LONG = "a-site-whose-name-is-as-long-as-a-name-may-be-which-is-63-lett"

CONFIG = FederationConfig.model_validate(
    {
        "name": "crowded",
        "model": {"base": "tiny"},
        "task": {"labels": {"positive": " positive", "negative": " negative"}},
        "rounds": {"max": ROUNDS, "drift": 0.01},
    }
)
TERMS = PrivacyPlan(
    sampling_rate=0.01,
    noise_multiplier=1.1,
    unit="record",
    epsilon=8.0,
    delta=1e-5,
    clip=1.0,
    rounds=ROUNDS,
    steps=10,
    min_honest=2,
)


def quality(value: float) -> Quality:
    groups = {f"silo-{n}": min(1.0, value + n / 100) for n in range(SILOS)}
    metrics = {"loss": 1 - value, "accuracy": value} | {f"accuracy/{g}": v for g, v in groups.items()}
    return Quality(metrics, SILOS * 50, dict.fromkeys(groups, 50))


def crowded(hostile: str = "") -> TrainingFacts:
    """Many rounds, sites and silos; `hostile` stands wherever a site, a label or a server can put words."""
    reason = hostile or "the policy's hours are over " * 8
    ends = ["updated", "declined", "failed", "silent", "refused"]

    def site(number: int, at: int) -> SiteInRound:
        status = ends[(number + at) % 5]
        name = hostile or (LONG if at == 0 else f"site-{at}")
        return SiteInRound(
            f"{name}{at}" if hostile else name,
            status,
            reason if status != "updated" else "",
            accepted=status == "updated",
            epsilon=0.1 * number,
            bytes_up=123_456,
            bytes_down=345_678,
        )

    rounds = tuple(
        RoundFacts(
            number,
            "failed" if number == 3 else "finished",
            reason if number == 3 else "",
            tuple(site(number, at) for at in range(SITES)),
            None if number == 3 else quality(0.5 + number / 100),
            1 / number,
            hostile or "a" * 64,
            hostile or f"models:/crowded/{number}",
            dict.fromkeys(STEPS, 1.5 * number),
        )
        for number in range(1, ROUNDS + 1)
    )
    measured = quality(0.5)
    if hostile:
        rounds = tuple(
            dataclasses.replace(one, quality=Quality({**one.quality.metrics, f"accuracy/{hostile}": 0.5}, 50))
            if one.quality
            else one
            for one in rounds
        )
        measured = Quality({**measured.metrics, f"accuracy/{hostile}": 0.5}, 50)
    event = SecurityEvent(hostile or "refused", hostile or LONG, "run-1", 2, reason, 3, 0.0, 0.0)
    return TrainingFacts(
        run=hostile or "run-1",
        config=CONFIG,
        status="completed",
        reason=reason,
        started=1.8e9,
        finished=1.8e9 + 4000,
        zero_shot=measured,
        champion={"accuracy": 0.6, "loss": 0.4, f"accuracy/{hostile}": 0.4},
        rounds=rounds,
        privacy=TERMS,
        security=(event,) * 3,
        base_sha256=hostile or "b" * 64,
        dvc_lock_sha256=hostile or None,
        flow_runs=(hostile or "flow-1",),
    )


def test_whatever_a_site_says_is_text_and_never_markup(show: Show) -> None:
    page = render(crowded(HOSTILE))
    parsed = Text(page)
    tags = Counter(tag for tag, _ in parsed.tags)
    assert not tags & Counter(["script", "img", "iframe", "object", "a"])
    allowed = Counter(tag for tag, _ in Text(render(crowded())).tags)
    assert set(tags) <= set(allowed)
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert parsed.words.count("<script>window.taken=1</script>") > 50
    shown = show(page)
    assert shown.measure("window.taken") is None
    assert shown.said == []
    assert len(shown.asked) == 1


def test_the_page_forbids_itself_to_load_or_run_anything() -> None:
    policy = next(
        attributes["content"]
        for tag, attributes in Text(render(crowded())).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_crowded_report_never_scrolls_sideways_but_inside_its_tables(show: Show, width: int) -> None:
    shown = show(render(crowded()), width=width)
    assert shown.measure("document.documentElement.scrollWidth") == width
    assert shown.measure("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0)")
    assert shown.measure("[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)")


CONTRASTS = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = node => {
    for (let e = node; e; e = e.parentElement) {
      const [r, g, b, a] = rgb(getComputedStyle(e).backgroundColor);
      if (a === undefined || a > 0.99) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest('desc, title')) continue;
    const style = getComputedStyle(e);
    const ink = light(rgb(e.closest('svg') ? style.fill : style.color));
    const paper = light(ground(e.closest('svg') ? e.closest('figure, p') : e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) found.push([ratio.toFixed(2), walk.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground_as_wcag_aa_asks(show: Show, scheme: str) -> None:
    assert show(render(crowded()), scheme=scheme).measure(CONTRASTS) == []


def test_on_paper_it_is_black_on_white_with_nothing_cut_off(show: Show) -> None:
    shown = show(render(crowded()), width=794, scheme="dark")
    shown.page.emulate_media(media="print", color_scheme="dark")
    assert shown.measure("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.measure("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert shown.measure(
        "[...document.querySelectorAll('.scroll')].map(e => getComputedStyle(e).overflowX)"
    ) == ["visible"] * shown.measure("document.querySelectorAll('.scroll').length")
    assert len(shown.page.pdf(format="A4")) > 10_000


def test_who_cannot_see_it_is_told_what_it_shows() -> None:
    parsed = Text(render(crowded()))
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    pictures = [a for tag, a in parsed.tags if tag == "svg" and a.get("role") == "img"]
    assert len(pictures) >= 6
    for attributes in pictures:
        assert set((attributes["aria-labelledby"] or "").split()) <= ids
    assert {a.get("lang") for tag, a in parsed.tags if tag == "html"} == {"en"}
    assert all(attributes.get("scope") for tag, attributes in parsed.tags if tag == "th")
    assert all(a.get("aria-label") for _, a in parsed.tags if a.get("role") == "region")
    summary = re.search(r'<desc id="quality-told">(.*?)</desc>', render(crowded()))
    assert summary is not None
    assert "round 40: 90.0 %, 95 % interval" in summary.group(1)


def test_a_loss_alone_is_shown_as_a_loss(show: Show) -> None:
    facts = crowded()
    lower = tuple(
        dataclasses.replace(one, quality=Quality({"loss": 1 / one.number, "loss/all": 1 / one.number}, 9))
        for one in facts.rounds[:3]
    )
    told = dataclasses.replace(facts, rounds=lower, zero_shot=Quality({"loss": 2.0}, 9), champion=None)
    page = render(told)
    assert "round 3 0.3333" in Text(page).words
    assert "accuracy" not in Text(page).words.lower().partition("what was asked")[0]
    assert show(page).said == []


def test_every_string_of_the_facts_was_tried() -> None:
    """A field that is added later must be hostile here too."""

    def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any part of it
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, tuple):
            for one in value:
                yield from strings(one, path)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from strings(getattr(value, field.name), f"{path}.{field.name}")

    told = list(strings(crowded(HOSTILE)))
    tried = {path for path, text in told if HOSTILE in text}
    ours = {
        ".status",
        ".rounds.state",
        ".rounds.sites.status",
        ".security.run",
    }  # words and ids that are checked
    assert {path for path, _ in told} - tried == ours
