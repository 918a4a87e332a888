"""Zero-shot is measured while the sites of the first round train."""

import time

import pytest

from fedllm.coordinator import rounds
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.coordinator.training import Training
from fedllm.errors import DataError
from fedllm.journal.runs import find_run
from tests.coordinator.played import PlayedSite


def test_a_public_set_that_cannot_be_evaluated_ends_the_wait_for_the_sites(
    training: Training, sites: dict[str, PlayedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    for site in sites.values():
        site.show_card()  # it lives, and never answers: the round's deadline is minutes away

    def unreadable(_training: Training) -> None:
        raise DataError("line 3 has no label")

    monkeypatch.setattr(rounds, "baseline", unreadable)
    begun = time.monotonic()
    with pytest.raises(DataError, match="line 3 has no label"):
        play(training, JournaledRunner(training))
    assert time.monotonic() - begun < 20
    row = find_run(training.journal, training.run)
    assert row is not None
    assert row.status == "failed"
