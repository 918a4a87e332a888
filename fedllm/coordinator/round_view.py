"""A round as a mode of confidentiality sees it: its plan, uploads and replies."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.payloads import keep_update, read_update
from fedllm.coordinator.round_keys import round_identity
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import SiteOutcome
from fedllm.protocol.messages import Plan, Sealed


@dataclass(frozen=True)
class TrainingRound:
    """A `RoundView` of a training under this coordinator's lease."""

    training: Training
    plan: Plan
    size: int

    def fetch(self, update: Sealed) -> bytes:
        """Download a site's upload and open it with the round's own key."""
        opener = round_identity(self.training, self.plan.round)
        return self.training.mailbox.fetch_payload(update, limit=self.plan.most_bytes, opener=opener)

    def keep(self, update: Sealed, opened: bytes) -> None:
        """Keep opened bytes on this coordinator's disk."""
        keep_update(self.training, update, self.plan.round, opened)

    def read(self, update: Sealed) -> bytes:
        """Return the kept bytes; fetch them if another coordinator audited the update."""
        return read_update(self.training, update, self.plan.round, self.plan.most_bytes)

    def replies(self, phase: str) -> Mapping[str, str]:
        """Return the replies in a phase after the training, by site."""
        outcomes = {
            site: self.training.journal.outcome(
                self.training.run, self.plan.round, f"{phase} {site}", SiteOutcome
            )
            for site in self.plan.sites
        }
        return {
            site: done.reply for site, done in outcomes.items() if done is not None and done.reply is not None
        }


def view_of(training: Training, number: int) -> TrainingRound:
    """Return the view of a dispatched round."""
    return TrainingRound(training, read_plan(training, number), training.learner().shared.layout.size)
