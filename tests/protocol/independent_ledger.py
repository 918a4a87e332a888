"""A ledger as a second implementation checks it: the chain, its rules, what it says about a round."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.protocol.independent_checks import RefusedError
from tests.protocol.independent_privacy import NOTHING, Entry, check_entry, entry_sha256, privacy_sha256


@dataclass
class Promise:
    """A `reserve` and what became of it."""

    entry: Entry
    charged: int = 0
    open: bool = True

    @property
    def left(self) -> int:
        return int(self.entry["steps"]) - self.charged


@dataclass
class Book:
    """A chain, taken in entry by entry."""

    entries: list[Entry] = field(default_factory=list)
    unit: str = ""
    keys: set[str] = field(default_factory=set)
    promises: dict[int, Promise] = field(default_factory=dict)

    def take(self, entry: Entry) -> None:
        """The next entry; `RefusedError` when the chain may not go on so."""
        check_entry(entry)
        if entry["seq"] != len(self.entries):
            raise RefusedError("an entry is missing or out of order")
        if entry["previous"] != (entry_sha256(self.entries[-1]) if self.entries else NOTHING):
            raise RefusedError("it does not follow the entry before it")
        if (entry["kind"] == "open") != (not self.entries):
            raise RefusedError("a chain opens once, at its beginning")
        if self.entries and entry["dataset"] != self.entries[0]["dataset"]:
            raise RefusedError("of another data set")
        if self.entries and entry["by"] not in self.keys:
            raise RefusedError("signed by a key that the chain does not know")
        {
            "open": self._open,
            "reserve": self._reserve,
            "charge": self._charge,
            "settle": self._settle,
            "rekey": self._rekey,
        }[entry["kind"]](entry)
        self.entries.append(entry)

    def _open(self, entry: Entry) -> None:
        self.unit, self.keys = entry["unit"], {entry["by"]}

    def _rekey(self, entry: Entry) -> None:
        if entry.get("retires") is not None:
            if entry["retires"] != entry["by"]:
                raise RefusedError("retires a key that did not sign it")
            self.keys.discard(entry["retires"])
        self.keys.add(entry["key"])

    def _reserve(self, entry: Entry) -> None:
        told = training(entry)
        if told and any(p.open and training(p.entry) == told for p in self.promises.values()):
            raise RefusedError("a second open reservation of one run")
        self.promises[entry["seq"]] = Promise(entry)

    def _drawn_on(self, entry: Entry) -> Promise:
        promise = self.promises.get(entry["reservation"])
        if promise is None or not promise.open:
            raise RefusedError("the reservation is not open")
        told, reserved = training(entry), training(promise.entry)
        if told and told != reserved:
            raise RefusedError("the reservation is another training's")
        return promise

    def _settle(self, entry: Entry) -> None:
        promise = self._drawn_on(entry)
        if entry["steps"] != promise.left:
            raise RefusedError("gives back what is not left")
        promise.open = False

    def _charge(self, entry: Entry) -> None:
        promise = self._drawn_on(entry)
        for name in ("sampling_rate", "noise_multiplier"):
            if entry[name] != promise.entry[name]:
                raise RefusedError("another mechanism than was reserved")
        if entry["steps"] > promise.left:
            raise RefusedError("charges more than is left")
        begin, end = entry["first"], entry["first"] + entry["steps"]
        for other in self.entries:
            together = other["kind"] == "charge" and _round(other) and _round(other) == _round(entry)
            if together and other["first"] < end and begin < other["first"] + other["steps"]:
                raise RefusedError("a step is charged twice")
        promise.charged += entry["steps"]

    def of_run(self, federation: str, run: str) -> list[Promise]:
        """The reservations that are known to be this run's."""
        return [p for p in self.promises.values() if training(p.entry) == (federation, run)]

    def charged_in(self, federation: str, run: str, number: int) -> int:
        """Steps charged of one round."""
        where = (federation, run, number)
        return sum(e["steps"] for e in self.entries if e["kind"] == "charge" and _round(e) == where)


def training(entry: Entry) -> tuple[str, str] | None:
    """Federation and run of an entry, where its context is shown."""
    told = entry.get("context")
    return (told["federation"], told["run"]) if told else None


def _round(entry: Entry) -> tuple[str, str, int] | None:
    told = entry.get("context")
    return (told["federation"], told["run"], told["round"]) if told else None


def read_chain(shown: Iterable[Entry], verify: str, known: Iterable[Entry] = ()) -> Book:
    """What a site shows of its chain, after what it showed before; its newest entry is signed by `verify`."""
    book = Book()
    for entry in known:
        book.take(entry)
    before = len(book.entries)
    for entry in shown:
        if entry["seq"] < before:
            if entry_sha256(entry) != entry_sha256(book.entries[entry["seq"]]):
                raise RefusedError("not the entry that was shown before: the chain was forked")
            continue
        book.take(entry)
    if len(book.entries) > before and book.entries[-1]["by"] != verify:
        raise RefusedError("the newest entry is not signed by the site's key")
    if not book.entries:
        raise RefusedError("nothing was shown")
    return book


def events_of(
    book: Book, plan: dict[str, Any], update: dict[str, Any], site: str
) -> tuple[float, float, int]:
    """q, sigma and the steps that this run has charged so far; what the coordinator composes to epsilon.

    `RefusedError` where the chain is not about the plan's privacy, or does not cover the update.
    """
    privacy = plan["privacy"]
    terms = privacy.get("sites", {}).get(site, privacy)
    mine = book.of_run(plan["federation"], plan["run"])
    if book.unit != privacy["unit"] or not mine:
        raise RefusedError("another unit, or no reservation for this run")
    for promise in mine:
        reserved = promise.entry
        if reserved["context"]["plan_sha256"] != privacy_sha256(privacy):
            raise RefusedError("reserved for another privacy plan")
        if (reserved["sampling_rate"], reserved["noise_multiplier"], reserved["delta"]) != (
            terms["sampling_rate"],
            terms["noise_multiplier"],
            privacy["delta"],
        ):
            raise RefusedError("reserved other terms")
    due = min(1, update["steps"]) if privacy["unit"] == "site" else update["steps"]
    if book.charged_in(plan["federation"], plan["run"], plan["round"]) < due:
        raise RefusedError("charges fewer steps than the update took")
    return terms["sampling_rate"], terms["noise_multiplier"], sum(promise.charged for promise in mine)
