"""The ledger gate: verify the sites' signed ledgers of a version, and recompute their epsilon."""

from collections.abc import Iterable

from pydantic import ValidationError

from fedllm.errors import LedgerError
from fedllm.privacy.accounting import Event, epsilon
from fedllm.privacy.chain import ChainState
from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.terms import NO_DP, rounded_up
from fedllm.review.gate import Gate
from fedllm.review.version_facts import VersionFacts
from fedllm.tracking.privacy_record import ledgers_sha256

NAME = "ledger"

_ROUNDING = 1.000001  # tolerance between two machines' arithmetic


def ledger(version: VersionFacts) -> Gate:  # noqa: PLR0911 - a gate names the first fault that it finds
    """With DP, check that the ledgers are present and valid, match the tag, and keep to the epsilon."""
    if not version.private:
        return Gate(NAME, "not observable", f"{NO_DP}: there is no ledger")
    ledgers = version.ledgers or {}
    if not ledgers or (missing := [site for site in version.sites if not ledgers.get(site)]):
        whose = ", ".join(missing) if ledgers else "every site"
        return Gate(NAME, "fail", f"the ledger of {whose} is missing from the artifacts of the round's run")
    try:
        chains = {site: _chains(lines) for site, lines in ledgers.items()}
        charged = {site: _charged(version, mine) for site, mine in chains.items()}
        spent = max(epsilon(events, _dp_tag(version, "delta")) for events in charged.values())
        bounds = {
            "the version says": _dp_tag(version, "epsilon"),
            "the training may spend": _dp_tag(version, "epsilon_budget"),
        }
    except (LedgerError, ValidationError, ValueError, KeyError) as error:
        return Gate(NAME, "fail", f"a ledger cannot be checked against the version: {_line(error)}")
    heads = {site: [chain.head for chain in mine if chain.head] for site, mine in chains.items()}
    if ledgers_sha256(heads) != version.tags.get("dp.ledger_sha256"):
        return Gate(NAME, "fail", "the ledgers are not those that the tag dp.ledger_sha256 names")
    if idle := [site for site in version.sites if not charged[site]]:
        return Gate(NAME, "fail", f"the ledger of {', '.join(idle)} charges nothing to this training")
    if over := [f"{words} {bound:g}" for words, bound in bounds.items() if spent > bound * _ROUNDING]:
        return Gate(NAME, "fail", f"the ledgers add up to epsilon {rounded_up(spent)}, {' and '.join(over)}")
    entries = sum(len(lines) for lines in ledgers.values())
    return Gate(
        NAME, "pass", f"{entries} valid signed entries of {len(chains)} sites, epsilon {rounded_up(spent)}"
    )


def _chains(lines: Iterable[str]) -> list[ChainState]:
    """Verify a site's chains from their first entries, and return them: one per data set."""
    chains: dict[str, ChainState] = {}
    for line in lines:
        entry = LedgerEntry.model_validate_json(line)
        chains.setdefault(entry.dataset, ChainState()).add(entry)
    return list(chains.values())


def _dp_tag(version: VersionFacts, tag: str) -> float:
    return float(version.tags[f"dp.{tag}"])


def _charged(version: VersionFacts, chains: Iterable[ChainState]) -> list[Event]:
    """Return the events that a site's chains charge to the version's training."""
    run = version.tags.get("fed.run", "")
    return [
        reservation.event(reservation.charged)
        for chain in chains
        for reservation in chain.reservations.values()
        if reservation.about(version.name, run) and reservation.charged
    ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
