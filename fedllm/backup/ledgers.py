"""Find the privacy ledgers of a home, read their newest entries, and charge their open trainings in full."""

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
from fedllm.protocol.entry import LedgerEntry
from fedllm.secure.identity import load_identity

NO_ROUND = 2**31 - 1  # round number for charging steps that may belong to any round

_TABLES = {"entry", "acknowledged"}


@dataclass(frozen=True)
class Retired:
    """Steps of an open training that a restore charged to a ledger."""

    dataset: str
    run: str
    steps: int


def is_ledger(path: Path) -> bool:
    """Return whether a file is a privacy ledger, judged by its tables and not by its name."""
    if not is_database(path):
        return False
    with closing(_read_only(path)) as db:
        names = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    return names >= _TABLES


def marks(path: Path, name: str) -> Iterator[LedgerMark]:
    """Yield the newest entry of every chain of a ledger, for the archive's list of contents.

    Args:
        path: the ledger.
        name: its path below fedllm's home.
    """
    folder = name.rpartition("/")[0]
    with closing(_read_only(path)) as db:
        for _, _, body in db.execute("select dataset, max(seq), entry from entry group by dataset"):
            entry = LedgerEntry.model_validate_json(body)
            yield LedgerMark(home=folder, dataset=entry.dataset, seq=entry.seq, sha256=entry.sha256)


def ledger_of(site: Path) -> Path:
    """Return the ledger path of a site; the default one while a starting simulation has no site file yet.

    Raises:
        ConfigError: the site file cannot be read.
    """
    file = site / "site.yaml"
    return ledger_path(site, load_site(file)) if file.exists() else site / "ledger.db"


def unreadable_sites(home: Path) -> dict[str, str]:
    """Return the reason for every site file that cannot be read, by site folder below the home.

    A home and an archive may contain such a site. Its agent does not start until the file is corrected.
    """
    unread = {}
    for site in site_homes(home):
        try:
            ledger_of(site)
        except ConfigError as error:
            unread[str(site.relative_to(home))] = str(error)
    return unread


def charged_rounds(site: Path) -> frozenset[tuple[str, int]] | None:
    """Return the (run, round) pairs that a site's ledger has charged; None if its site file is unreadable.

    Raises:
        LedgerError: the ledger cannot be read, or is damaged.
    """
    try:
        path = ledger_of(site)
    except ConfigError:
        return None
    try:
        chains = list(_chains(path)) if path.exists() and is_ledger(path) else []
    except (
        OSError,
        sqlite3.Error,
    ) as error:  # a ledger outside the home was not in the archive, so not checked
        raise LedgerError(f"the ledger {path} cannot be read: {error}") from None
    return frozenset((run, number) for chain in chains for _, run, number in chain.charges)


def retire_ledgers(home: Path) -> list[Retired]:
    """Charge all remaining steps of every open training in the restored ledgers.

    After the backup the site may have charged steps and sent their noise; the file does not show that. Once
    all reserved steps are charged, no step can be taken twice for one charge.

    Args:
        home: the restored home.

    Raises:
        BackupError: no restored key may sign in a ledger with open trainings.
        LedgerError: a ledger is damaged.
    """
    sites = site_homes(home)
    users: dict[Path, list[Path]] = {}
    for site in sites:
        try:
            users.setdefault(ledger_of(site), []).append(site)
        except ConfigError:  # its site may use any ledger
            users.setdefault(site / "ledger.db", []).append(site)
    retired: list[Retired] = []
    for path in (home / name for _, name in files(home, keys=True)):
        if not is_ledger(path):
            continue
        # Every site whose key the ledger accepts may charge steps, whatever its site file now says.
        preferred = users.get(path, [])
        signers = [*preferred, *(site for site in sites if site not in preferred)]
        for chain in list(_chains(path)):
            if any(map(_is_open, chain.reservations.values())):
                retired += _retire(path, chain.dataset, signers)
    return retired


def _chains(path: Path) -> Iterator[ChainState]:
    """Yield the state of each chain in a ledger."""
    chains: dict[str, list[LedgerEntry]] = {}
    with closing(_read_only(path)) as db:
        for dataset, body in db.execute("select dataset, entry from entry order by dataset, seq"):
            chains.setdefault(dataset, []).append(LedgerEntry.model_validate_json(body))
    for entries in chains.values():
        yield state_of(entries)


def _is_open(reservation: Reservation) -> bool:
    """Return whether a training has reserved steps that are not charged."""
    return not reservation.settled and reservation.charged < reservation.most


def _retire(path: Path, dataset: str, sites: list[Path]) -> list[Retired]:
    """Charge a data set's open steps with the keys of the first site that may sign."""
    why: Exception | None = None
    retired: list[Retired] = []
    for site in sites:
        try:
            retired.extend(_charge_open(path, dataset, site / "keys"))
        except (IdentityError, LedgerError) as error:
            why = error
        else:
            return retired
    raise BackupError(
        f"the ledger {path} has an open training on {dataset} that may have continued after the backup, and "
        "no key is here to charge its steps: restore an archive with private keys, or, if no training with "
        "privacy ran after this backup, say so with --nothing-spent"
    ) from why


def _charge_open(path: Path, dataset: str, keys: Path) -> Iterator[Retired]:
    with closing(Ledger(path, load_identity(keys), former_identities(keys))) as ledger:
        for reservation in [r for r in ledger.state(dataset).reservations.values() if _is_open(r)]:
            entry, left = reservation.entry, reservation.most - reservation.charged
            if entry.context is None:
                raise LedgerError(f"ledger of {dataset}: entry {entry.seq} does not name its training")
            federation, run = entry.context.federation, entry.context.run
            # An earlier restore may have charged steps: charging the same ones again has no effect.
            earlier = ledger.state(dataset).charges.get((federation, run, NO_ROUND), ())
            first = max(((charge.first or 0) + (charge.steps or 0) for charge in earlier), default=0)
            ledger.charge(dataset, federation=federation, run=run, round=NO_ROUND, first=first, steps=left)
            yield Retired(dataset, run, left)


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
