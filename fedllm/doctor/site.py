"""Check a site's folder (file, data, keys, ledger, policy, invitation) and its store, without writing."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedllm.agent.first_look import first_look, kept_task
from fedllm.agent.join import Membership, open_invitation, read_card
from fedllm.config import SiteConfig, TaskConfig, load_site
from fedllm.doctor import databases, machine
from fedllm.doctor.finding import Check, Finding, fail, ok, tried, warn
from fedllm.doctor.modes import open_to_others
from fedllm.errors import AccessDeniedError, ExchangeError, IdentityError, ObjectNotFoundError
from fedllm.exchange.mailbox import Mailbox
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.privacy.ledger_table import spent_by
from fedllm.privacy.same_data import other_uses
from fedllm.privacy.site_ledger import dataset_of, former_identities, ledger_path
from fedllm.protocol.messages import Invitation, Roster
from fedllm.secure.identity import Identity, fingerprint, load_identity

_LOW = 0.1  # share of the total budget that counts as low
_AGAIN = "ask the coordinator for a new invitation (`fedllm site add CARD --replace`)"


@dataclass(frozen=True)
class SiteCheck:
    """The checks of a site's folder and an invitation."""

    home: Path
    site: SiteConfig
    invitation: Path | None = None
    task: TaskConfig | None = None  # of the federation file; None: the one given to `site init`

    def checks(self) -> list[tuple[str, str, Check]]:
        """Return the checks, each with its name and the remedy if it fails with an error."""
        return [
            ("data", "mend `data` in site.yaml", self._data),
            ("keys", "restore the folder from your backup, or `fedllm site rekey`", self._keys),
            ("ledger", "restore the newest ledger; never train without it", self._ledger),
            ("memory", "restore it from a backup, or `fedllm site rekey`", self._memory),
            ("policy", "mend `policy` in site.yaml", self._policy),
            ("model cache", "mend `base` in site.yaml", lambda: machine.base_model(self.site.base)),
            ("disk", "make room", lambda: [machine.room("disk", self.home)]),
            ("invitation", _AGAIN, self._invitation),
        ]

    def _data(self) -> Iterator[Finding]:
        task = self.task or kept_task(self.home)
        base = machine.cached_base(self.site.base)
        look = first_look(self.site.data, task, base, self.home)
        withdrawn = f", {look.withdrawn} withdrawn" if look.withdrawn else ""
        text = f"{look.usable} records in {self.site.data}{withdrawn}"
        if not look.rows:
            yield fail("data", text, "there is nothing to train on")
            return
        most = self.site.policy.max_left_out
        if look.share > most:
            remedy = f"mend the file: of more than policy.max_left_out, {most:g}, no round is made without DP"
            yield fail("data", f"{text}; {look.lines()[0]}", remedy)
        else:
            yield ok("data", text if task else f"{text}; --config FEDERATION checks labels and fields too")
        if look.share <= most and look.left_out:
            yield warn("records", look.lines()[0], "mend these lines of the data file")
        for line in look.lines()[1 if look.left_out else 0 :]:
            yield ok("records", line)

    def _keys(self) -> Iterator[Finding]:
        folders = [self.home, *self.home.glob("keys*")]
        private = open_to_others("keys", folders, [*self.home.glob("keys*/*.key")])
        if private.status != "ok":
            yield private
            return
        identity = load_identity(self.home / "keys")
        if identity.name != self.site.name:
            yield fail("keys", f"they are of {identity.name}", "mend `name` in site.yaml")
        else:
            yield ok("keys", f"{private.detail}; ours is {fingerprint(identity.public)}")

    def _ledger(self) -> Iterator[Finding]:
        path = ledger_path(self.home, self.site)
        if not path.exists():
            yield ok("ledger", "none yet: no training with DP was promised")
            return
        with tempfile.TemporaryDirectory(prefix="fedllm-doctor-") as folder:
            copy = Path(folder) / "ledger.db"
            # Open a copy: opening a ledger may write to it, for example after new keys.
            try:
                databases.copy(path, copy)
            except sqlite3.Error as error:
                if (finding := databases.unread("ledger", path, error)).status == "fail":
                    raise
                yield finding
                return
            yield from self._verified(path, copy)

    def _verified(self, path: Path, copy: Path) -> Iterator[Finding]:
        limits = Limits(self.site.policy.total_epsilon, self.site.policy.max_delta)
        with closing(
            Ledger(copy, load_identity(self.home / "keys"), former_identities(self.home / "keys"))
        ) as ledger:
            heads = ledger.verify()
            entries = sum(head.seq + 1 for head in heads.values())
            yield ok("ledger", f"{entries} entries of {len(heads)} data sets hold in {path}")
            for other in other_uses(self.site, self.home):
                yield warn("same data", other, "decide whose budget these records spend")
            dataset = dataset_of(self.site)
            if limits.total_epsilon is None or dataset not in heads:
                return
            budget = spent_by(ledger, dataset, limits)
        spent = budget.epsilon if budget.epsilon_filter is None else budget.epsilon_filter
        if limits.total_epsilon - spent < _LOW * limits.total_epsilon:
            remedy = "decide whether `policy.total_epsilon` is to be raised; nobody else can"
            yield warn("budget", f"{dataset}: {budget.caption}", remedy)
        else:
            yield ok("budget", f"{dataset}: {budget.caption}")

    def _memory(self) -> Iterator[Finding]:
        yield from databases.database("memory", f"sqlite:///{self.home / 'memory.db'}")

    def _policy(self) -> Iterator[Finding]:
        policy = self.site.policy
        odd = []
        if policy.budgets and "none" in policy.units:
            odd.append("it limits epsilon and takes trainings without DP: leave `none` out of policy.units")
        if not policy.budgets and "none" not in policy.units:
            odd.append("it takes DP alone and limits no epsilon: set policy.max_epsilon and total_epsilon")
        if policy.max_epsilon and policy.total_epsilon and policy.max_epsilon > policy.total_epsilon:
            odd.append("one training may spend more than all together: lower policy.max_epsilon")
        if policy.budgets and self.site.tell_count:
            odd.append("it tells how many records there are, which is a release: set tell_count to false")
        if odd:
            yield warn("policy", "; ".join(odd), "decide, and mend site.yaml")
        else:
            yield ok("policy", "no part of it contradicts another")

    def _invitation(self) -> Iterator[Finding]:
        path = self.invitation or _only_invitation(self.home)
        if path is None:
            yield ok("invitation", "none looked at: name it with --invitation to try the store as well")
            return
        identity = load_identity(self.home / "keys")
        invitation = open_invitation(path, self.site.name, identity)
        yield self._coordinator(invitation)
        yield from self._store(invitation, identity)

    def _coordinator(self, invitation: Invitation) -> Finding:
        pin = self.home / f"coordinator-{invitation.federation}.json"
        mark = fingerprint(invitation.coordinator)
        if pin.exists() and read_card(pin) != invitation.coordinator:
            return fail(
                "invitation",
                f"it comes from {mark}, another coordinator than {pin.name} remembers",
                "compare fingerprints over the telephone, then remove that file",
            )
        return ok("invitation", f"to {invitation.federation}, from {mark}")

    def _store(self, invitation: Invitation, identity: Identity) -> Iterator[Finding]:
        member = Membership(self.site, self.home, identity, invitation)
        mailbox = Mailbox(member.connect(), member.layout, identity)
        where = invitation.endpoint or invitation.store_url
        if invitation.endpoint is not None:
            yield machine.skew(mailbox.store.now())
        try:
            roster = mailbox.read(member.layout.roster, Roster, invitation.coordinator).message
        except AccessDeniedError as error:
            yield fail(
                "store", f"{where}: {error}", f"this site's user is gone or has a new secret: {_AGAIN}"
            )
            return
        except ObjectNotFoundError:
            yield fail(
                "store", f"{where} answers and has no roster", "ask the coordinator whether it is set up"
            )
            return
        except ExchangeError as error:
            yield fail("store", f"{where}: {error}", "mend the network, or ask the coordinator")
            return
        if identity.public in roster.sites:
            yield ok(
                "store", f"{where} lets this site's user in; roster {roster.roster_version} holds its keys"
            )
        else:
            yield fail("store", f"roster {roster.roster_version} does not hold this site's keys", _AGAIN)


def _only_invitation(home: Path) -> Path | None:
    invitations = sorted(home.glob("*.invitation"))
    return invitations[0] if len(invitations) == 1 else None


def site_check(
    home: Path, invitation: Path | None, task: TaskConfig | None = None
) -> tuple[SiteCheck | None, list[Finding]]:
    """Read a site's file; return the checks of its folder, or None if it is unreadable, and the findings."""
    read: list[SiteCheck] = []

    def site_file() -> Iterator[Finding]:
        if not home.is_dir():
            raise IdentityError(f"{home}: no such folder")
        read.append(SiteCheck(home, load_site(home / "site.yaml"), invitation, task))
        yield ok("site file", f"{read[0].site.name} in {home}")

    findings = tried("site file", "name the site's folder, or mend the file", site_file)
    return (read[0] if read else None), findings
