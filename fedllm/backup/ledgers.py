"""Privacy ledgers in a home: which there are, how far each is, and their open trainings counted as spent."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedllm.backup.inventory import files, is_database, site_homes
from fedllm.backup.manifest import LedgerMark
from fedllm.config import load_site
from fedllm.errors import BackupError, ConfigError, IdentityError, LedgerError
from fedllm.privacy.chain import ChainState, Reservation, state_of
from fedllm.privacy.ledger import Ledger
from fedllm.privacy.site_ledger import former_identities, ledger_path
from fedllm.protocol.entry import Entry
from fedllm.secure.identity import load_identity

NO_ROUND = 2**31 - 1  # under which steps are charged that may have been taken in any round

_TABLES = {"entry", "acknowledged"}


@dataclass(frozen=True)
class Retired:
    """Steps of a training that a restored ledger counts as spent."""

    dataset: str
    run: str
    steps: int


def is_ledger(path: Path) -> bool:
    """Whether a file is a privacy ledger, whatever it is called."""
    if not is_database(path):
        return False
    with closing(_reading(path)) as db:
        names = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    return names >= _TABLES


def marks(path: Path, name: str) -> Iterator[LedgerMark]:
    """What an archive's list of contents says of a ledger: the newest entry of every chain.

    Args:
        path: the ledger.
        name: its path below fedllm's home.
    """
    folder = name.rpartition("/")[0]
    with closing(_reading(path)) as db:
        for _, _, body in db.execute("select dataset, max(seq), entry from entry group by dataset"):
            entry = Entry.model_validate_json(body)
            yield LedgerMark(home=folder, dataset=entry.dataset, seq=entry.seq, sha256=entry.sha256)


def ledger_of(site: Path) -> Path:
    """The ledger of the site in a folder; a simulation that just begins has no site file for a moment.

    Raises:
        ConfigError: its site file cannot be read.
    """
    file = site / "site.yaml"
    return ledger_path(site, load_site(file)) if file.exists() else site / "ledger.db"


def unread_sites(home: Path) -> dict[str, str]:
    """Sites whose site file cannot be read, by their folders below the home, and why.

    Such a site may be in a home and in an archive. No agent starts with it until it is mended.
    """
    unread = {}
    for site in site_homes(home):
        try:
            ledger_of(site)
        except ConfigError as error:
            unread[str(site.relative_to(home))] = str(error)
    return unread


def paid_rounds(site: Path) -> frozenset[tuple[str, int]] | None:
    """Runs and rounds that a site's ledger has charged, wherever it is; None: its site file does not tell.

    Raises:
        LedgerError: the ledger cannot be read, or is damaged.
    """
    try:
        path = ledger_of(site)
    except ConfigError:
        return None
    try:
        chains = list(_chains(path)) if path.exists() and is_ledger(path) else []
    except (OSError, sqlite3.Error) as error:  # one outside the home was not in the archive, and not checked
        raise LedgerError(f"the ledger {path} cannot be read: {error}") from None
    return frozenset((run, number) for chain in chains for _, run, number in chain.charges)


def retire_ledgers(home: Path) -> list[Retired]:
    """Count every training that a restored ledger has open as spent to its last step.

    Steps may have been charged, and their noise sent, after the backup was taken: the file cannot tell. Once
    all steps that were promised are charged, no step can be taken twice for one charge.

    Args:
        home: fedllm's, as it was restored.

    Raises:
        BackupError: no key that came with it may sign in a ledger with open trainings.
        LedgerError: a ledger is damaged.
    """
    sites = site_homes(home)
    users: dict[Path, list[Path]] = {}
    for site in sites:
        try:
            users.setdefault(ledger_of(site), []).append(site)
        except ConfigError:  # it may be any ledger's user
            users.setdefault(site / "ledger.db", []).append(site)
    retired: list[Retired] = []
    for name in (home / name for _, name in files(home, keys=True)):
        if not is_ledger(name):
            continue
        # Whoever's key the ledger knows may count its steps as spent, whatever a site file says by now.
        named = users.get(name, [])
        signers = [*named, *(site for site in sites if site not in named)]
        for chain in list(_chains(name)):
            if any(map(_is_open, chain.reservations.values())):
                retired += _retire(name, chain.dataset, signers)
    return retired


def _chains(path: Path) -> Iterator[ChainState]:
    """What each chain in a ledger's file comes to."""
    chains: dict[str, list[Entry]] = {}
    with closing(_reading(path)) as db:
        for dataset, body in db.execute("select dataset, entry from entry order by dataset, seq"):
            chains.setdefault(dataset, []).append(Entry.model_validate_json(body))
    for entries in chains.values():
        yield state_of(entries)


def _is_open(reservation: Reservation) -> bool:
    """Whether a training was promised steps that are not charged."""
    return not reservation.settled and reservation.charged < reservation.most


def _retire(path: Path, dataset: str, sites: list[Path]) -> list[Retired]:
    """Charge what is open of a data set in the name of the first of the sites whose keys may."""
    why: Exception | None = None
    retired: list[Retired] = []
    for site in sites:
        try:
            retired.extend(_charged(path, dataset, site / "keys"))
        except (IdentityError, LedgerError) as error:
            why = error
        else:
            return retired
    raise BackupError(
        f"the ledger {path} has a training on {dataset} open that may have gone on after the backup, and no "
        "key is here to count it as spent: restore an archive with private keys, or, if no training with "
        "privacy ran after this backup, say so with --nothing-spent"
    ) from why


def _charged(path: Path, dataset: str, keys: Path) -> Iterator[Retired]:
    with closing(Ledger(path, load_identity(keys), former_identities(keys))) as ledger:
        for one in [r for r in ledger.state(dataset).reservations.values() if _is_open(r)]:
            context, left = one.entry.context, one.most - one.charged
            if context is None:
                raise LedgerError(f"ledger of {dataset}: entry {one.entry.seq} does not name its training")
            federation, run = context.federation, context.run
            # An earlier restore may have charged such steps: to charge the same ones again charges nothing.
            earlier = ledger.state(dataset).charges.get((federation, run, NO_ROUND), ())
            first = max(((entry.first or 0) + (entry.steps or 0) for entry in earlier), default=0)
            ledger.charge(dataset, federation=federation, run=run, round=NO_ROUND, first=first, steps=left)
            yield Retired(dataset, run, left)


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
