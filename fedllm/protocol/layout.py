"""The keys of the objects in the bucket. Each has one writer, so IAM policies need only literal prefixes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """The object keys of one federation."""

    federation: str

    @property
    def roster(self) -> str:
        """Return the key of the roster: the members and their public keys."""
        return f"{self.federation}/coordinator/roster.json"

    @property
    def head(self) -> str:
        """Return the key of the head, which sites poll."""
        return f"{self.federation}/coordinator/head.json"

    def plan(self, run: str, number: int) -> str:
        """Return the key of a round's plan."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/plan.json"

    def closed(self, run: str, number: int) -> str:
        """Return the key of the message that lists the updates that count."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/closed.json"

    def report(self, run: str, number: int) -> str:
        """Return the key of a round's report."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/report.json"

    def optimizer(self, run: str, number: int) -> str:
        """Return the key of the server optimiser's state after a round, sealed for the coordinator."""
        return f"{self.federation}/coordinator/{run}/rounds/{number}/optimizer.bin"

    def model(self, run: str, sealed_sha256: str) -> str:
        """Return the key of a global adapter, sealed for the sites; the hash is of the sealed bytes."""
        return f"{self.federation}/coordinator/{run}/models/{sealed_sha256}"

    def card(self, site: str) -> str:
        """Return the key of a site's card: its heartbeat and capabilities."""
        return f"{self.federation}/sites/{site}/card.json"

    def answer(self, site: str, run: str, number: int) -> str:
        """Return the key of a site's answer to a plan."""
        return f"{self.federation}/sites/{site}/{run}/{number}/answer.json"

    def update(self, site: str, run: str, number: int) -> str:
        """Return the key of the signed description of a site's update."""
        return f"{self.federation}/sites/{site}/{run}/{number}/update.json"

    def payload(self, site: str, run: str, number: int) -> str:
        """Return the key of a site's sealed update."""
        return f"{self.federation}/sites/{site}/{run}/{number}/update.bin"

    def query(self, site: str, run: str, number: int, phase: str) -> str:
        """Return the key of the coordinator's query to a site in a phase after the training."""
        return f"{self.federation}/inbox/{site}/{run}/{number}/{phase}.json"

    def reply(self, site: str, run: str, number: int, phase: str) -> str:
        """Return the key of a site's reply to such a query."""
        return f"{self.federation}/sites/{site}/{run}/{number}/{phase}.json"

    def round_prefix(self, site: str, run: str, number: int) -> str:
        """Return the prefix of a site's objects of one round."""
        return f"{self.federation}/sites/{site}/{run}/{number}/"

    def site_prefix(self, site: str) -> str:
        """Return the prefix under which a site may write."""
        return f"{self.federation}/sites/{site}/"

    def inbox_prefix(self, site: str) -> str:
        """Return the prefix of the queries that the coordinator relays to a site."""
        return f"{self.federation}/inbox/{site}/"

    @property
    def coordinator_prefix(self) -> str:
        """Return the prefix that every site may read."""
        return f"{self.federation}/coordinator/"
