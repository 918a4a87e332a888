"""The layout of the bucket: one writer a key, the site first, so that IAM needs literal prefixes alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Every key of one federation."""

    federation: str

    @property
    def roster(self) -> str:
        """Who takes part, with which public keys."""
        return f"{self.federation}/coordinator/roster.json"

    @property
    def head(self) -> str:
        """The one key that sites poll."""
        return f"{self.federation}/coordinator/head.json"

    def plan(self, run: str, number: int) -> str:
        """What is asked of whom in a round."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/plan.json"

    def closed(self, run: str, number: int) -> str:
        """Which updates count."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/closed.json"

    def report(self, run: str, number: int) -> str:
        """What a round came to."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/report.json"

    def optimizer(self, run: str, number: int) -> str:
        """The server optimiser's state after a round, sealed for the coordinator."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/optimizer.bin"

    def model(self, run: str, sealed_sha256: str) -> str:
        """A global adapter, sealed for the sites; named by the hash of the sealed bytes."""
        return f"{self.federation}/coordinator/{run}/models/{sealed_sha256}"

    def card(self, site: str) -> str:
        """A site's heartbeat and capability."""
        return f"{self.federation}/sites/{site}/card.json"

    def answer(self, site: str, run: str, number: int) -> str:
        """A site's answer to a plan."""
        return f"{self.federation}/sites/{site}/{run}/{number}/answer.json"

    def update(self, site: str, run: str, number: int) -> str:
        """The signed description of a site's update."""
        return f"{self.federation}/sites/{site}/{run}/{number}/update.json"

    def payload(self, site: str, run: str, number: int) -> str:
        """A site's sealed update."""
        return f"{self.federation}/sites/{site}/{run}/{number}/update.bin"

    def query(self, site: str, run: str, number: int, phase: str) -> str:
        """What the coordinator asks one site in a phase after the training."""
        return f"{self.federation}/inbox/{site}/{run}/{number}/{phase}.json"

    def reply(self, site: str, run: str, number: int, phase: str) -> str:
        """A site's reply in such a phase."""
        return f"{self.federation}/sites/{site}/{run}/{number}/{phase}.json"

    def round_prefix(self, site: str, run: str, number: int) -> str:
        """All that a site has to say about one round."""
        return f"{self.federation}/sites/{site}/{run}/{number}/"

    def site_prefix(self, site: str) -> str:
        """All that a site may write."""
        return f"{self.federation}/sites/{site}/"

    def inbox_prefix(self, site: str) -> str:
        """What the coordinator relays to one site."""
        return f"{self.federation}/inbox/{site}/"

    @property
    def coordinator_prefix(self) -> str:
        """All that every site may read."""
        return f"{self.federation}/coordinator/"
