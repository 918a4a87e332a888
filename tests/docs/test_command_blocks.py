"""Every command block of README and docs is run, or says why not."""

import sys
from pathlib import Path

import pytest
from page_blocks import COMMANDS, PROSE, TYPED, fences, indented, named, pages, steps

# Blocks that no test runs. Lower it when one can be run; a new one needs a better reason than its author's.
NOT_RUN_AT_MOST = 15

PAGES = pytest.mark.parametrize("page", pages(), ids=named)


@PAGES
def test_every_block_of_a_page_is_fenced_and_says_its_language(page: Path) -> None:
    assert indented(page) == [], f"{named(page)}: indented blocks have no language"
    odd = {line: language for line, language, _ in fences(page) if language not in COMMANDS | PROSE}
    assert odd == {}, f"{named(page)}: not one of {sorted(COMMANDS | PROSE)}"


@PAGES
def test_what_looks_like_a_command_stands_in_a_block_that_is_run_or_says_why_not(page: Path) -> None:
    answered = {step.line for step in steps(page)}
    hidden = [
        f"{named(page)}:{line + 1 + number}: {text}"
        for line, _, block in fences(page)
        if line not in answered
        for number, text in enumerate(block.splitlines())
        if TYPED.match(text)
    ]
    assert hidden == []


@PAGES
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    reasons = {step.place: step.reason for step in steps(page) if step.kind in {"not run", "instead"}}
    assert [place for place, reason in reasons.items() if len(reason.split()) < 4] == []


def test_few_blocks_are_not_run_and_their_number_does_not_grow() -> None:
    found = [step for page in pages() for step in steps(page)]
    run = [step for step in found if step.kind in {"block", "beside"}]
    instead = [step for step in found if step.kind == "instead"]
    left = [step for step in found if step.kind == "not run"]
    told = [
        f"{len(run)} command blocks are run as they stand, {len(instead)} by a stand-in, {len(left)} not:"
    ]
    told += [f"  {step.place} {step.kind}: {step.reason}" for step in instead + left]
    sys.stdout.write("\n" + "\n".join(told) + "\n")
    assert len(run) > 2 * (len(instead) + len(left))
    assert len(left) <= NOT_RUN_AT_MOST
