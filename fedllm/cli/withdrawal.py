"""The values and the result of `fedllm data forget`; its record counts stay at the site."""

from collections.abc import Sequence
from pathlib import Path

from fedllm.data.forget import Forgotten
from fedllm.data.forgotten_file import FILE, Withdrawal
from fedllm.data.records import read_records
from fedllm.errors import ConfigError, DataError


def requested_values(ids: Sequence[str], where: Sequence[str], *, show: bool) -> list[tuple[str, str]]:
    """Return (field, value) of everything to forget. Raises `ConfigError`."""
    values = [("id", record) for record in ids]
    for condition in where:
        name, equals, value = condition.partition("=")
        if not name or not equals:
            raise ConfigError(f"--where {condition!r}: write FIELD=VALUE, such as person=p-17")
        values.append((name, value))
    if show and values:
        raise ConfigError("--list adds nothing: leave out --id and --where")
    if not show and not values:
        raise ConfigError(
            "name what to forget: --id ID or --where FIELD=VALUE; --list shows what is forgotten"
        )
    return values


def answer(
    home: Path, data: Path, forgotten: Forgotten, new: Sequence[Withdrawal]
) -> tuple[dict[str, object], str]:
    """Return the result as JSON and as text."""
    records, fault = _read(data)
    left_out = None if records is None else len(records) - len(forgotten.keep(records))
    entries: list[dict[str, object]] = [
        {
            "seq": entry.seq,
            "at": entry.at,
            "field": entry.field,
            "new": entry in new,
            "records": None if records is None else forgotten.count(entry, records),
        }
        for entry in forgotten.entries
    ]
    payload: dict[str, object] = {
        "schema": "fedllm.data-forget/1",
        "journal": str(home / FILE),
        "data": str(data),
        "added": len(new),
        "records": None if records is None else len(records),
        "left_out": left_out,
        "entries": entries,
    }
    lines = [
        f"{row['seq']:>5}  {row['at']}  {row['field']}: "
        + ("records cannot be counted" if records is None else f"{row['records']} records")
        + ("  new" if row["new"] else "")
        for row in entries
    ]
    lines.append(f"{home / FILE}: {len(entries)} entries, {len(new)} of them new")
    if records is None:
        lines.append(f"the entries stand, but no records could be counted: {fault}")
    else:
        lines.append(f"{left_out} of {len(records)} records are left out of every later round")
        idle = [row["field"] for row in entries if row["new"] and not row["records"]]
        if idle:
            lines.append(
                f"no record of {data} matches the new entry for {', '.join(map(str, idle))}: a slip?"
            )
    if new:
        lines.append(f"{data} is unchanged, and so are models that were trained before")
    return payload, "\n".join(lines)


def _read(data: Path) -> tuple[list[dict[str, str]] | None, str]:
    """Return the records, or the fault: a withdrawal is journaled even if they cannot be read."""
    try:
        return read_records(data), ""
    except DataError as error:
        return None, str(error)
