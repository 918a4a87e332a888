"""`fedllm site init`: check everything before writing anything, and keep what exists."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock, Timeout

from fedllm.agent.first_look import first_look, keep_task, kept_task
from fedllm.agent.join import check_name, init_site
from fedllm.config import FederationConfig, PolicyConfig, SiteConfig, load_site
from fedllm.data.inspection import Inspection
from fedllm.data.site_records import listed
from fedllm.errors import ConfigError, DataError, IdentityError, ModelError
from fedllm.models.base import prepared_base

DEFAULT_BASE = "smollm2-135m"


@dataclass(frozen=True)
class NewSite:
    """The result of `make_site`."""

    card: Path
    state: Literal["made", "kept", "replaced"]
    base: str
    ready: bool  # the base model needs no fetching or converting
    checked: bool  # whether the records were checked against a federation's task
    found: Inspection


@dataclass(frozen=True)
class Wanted:
    """A site's requested settings. None: as in the federation file or the existing site."""

    name: str
    data: Path
    home: Path
    base: str | None = None
    federation: FederationConfig | None = None
    max_left_out: float | None = None  # the policy's share of the rows


def make_site(wanted: Wanted, *, replace: bool = False) -> NewSite:
    """Create a site, or check an existing one again.

    Args:
        wanted: the site.
        replace: give an existing site these data and this base. Keys, policy and ledger stay.

    Raises:
        ConfigError: the site exists with other data or another base, and `replace` is not given.
        DataError: the data cannot be read, or more rows are unusable than the policy allows.
        IdentityError: the name is invalid, the home belongs to another site or cannot be written, or its
            agent runs.
        ModelError: there is no such base.
    """
    check_name(wanted.name)
    file = wanted.home / "site.yaml"
    before = load_site(file) if file.is_file() else None
    if before is not None:
        _refuse_another(wanted, before, replace=replace)
    base = wanted.base or (before.base if before else None) or _usual_base(wanted.federation)
    source = "--base" if wanted.base or before else "model.base of the federation file:"
    folder = _checked_base(base, source)
    task = wanted.federation.task if wanted.federation else kept_task(wanted.home)
    inspection = first_look(wanted.data, task, folder, wanted.home)
    same = before is not None and (before.data, before.base) == (wanted.data.resolve(), base)
    if not same:  # for a kept site the inspection is only reported
        most = before.policy.max_left_out if before else wanted.max_left_out
        _refuse_faulty(wanted.data, inspection, PolicyConfig().max_left_out if most is None else most)
    if before is not None and not same:
        _change(wanted.home, {"data": str(wanted.data.resolve()), "base": base})
    settings: dict[str, object] = {"base": base}
    if wanted.max_left_out is not None:
        settings["policy"] = {"max_left_out": wanted.max_left_out}
    card = init_site(wanted.name, wanted.data, wanted.home, **settings)
    if wanted.federation is not None:
        keep_task(wanted.home, wanted.federation.task)
    state: Literal["made", "kept", "replaced"] = "made" if before is None else "kept" if same else "replaced"
    return NewSite(card, state, base, folder is not None, task is not None, inspection)


def _refuse_another(wanted: Wanted, before: SiteConfig, *, replace: bool) -> None:
    """Refuse to change an existing site without `replace`."""
    if before.name != wanted.name:
        raise IdentityError(f"{wanted.home} is the home of {before.name}: choose another --home")
    if wanted.max_left_out not in {None, before.policy.max_left_out}:
        raise ConfigError(f"{wanted.name} exists: write policy.max_left_out into {wanted.home / 'site.yaml'}")
    others = []
    if before.data != wanted.data.resolve():
        others.append(f"data {before.data}")
    if wanted.base not in {None, before.base}:
        others.append(f"base {before.base}")
    if others and not replace:
        raise ConfigError(
            f"{wanted.name} exists, with {' and '.join(others)}: nothing is changed; add --replace to "
            "give it the new values; it keeps its keys, policy and ledger"
        )


def _usual_base(federation: FederationConfig | None) -> str:
    return federation.model.base if federation else DEFAULT_BASE


def _checked_base(base: str, source: str) -> Path | None:
    try:
        return prepared_base(base)
    except ModelError as error:
        raise ModelError(f"{source} {base}: {str(error).removeprefix('model.base: ')}") from None


def _refuse_faulty(data: Path, result: Inspection, most: float) -> None:
    if result.usable and result.share <= most:
        return
    faults = listed(result.left_out) if result.left_out else "all records are withdrawn"
    raise DataError(
        f"{data}: {len(result.left_out)} of {result.rows} rows cannot be used, more than may be left out "
        f"({most:g} of them; --max-left-out, policy.max_left_out): {faults}. The federation sets the "
        "names of fields and labels: rename yours, or ask its coordinator to add yours to `task`"
    )


def _line_of(key: str, text: str) -> tuple[int, int]:
    """Return begin and end of a top-level key's line in a YAML text; the text's end twice if it is absent."""
    match = re.search(rf"(?m)^{key}:[^\n]*\n?", text)
    return match.span() if match else (len(text), len(text))


def _change(home: Path, changes: dict[str, str]) -> None:
    """Change values in a site file, and keep the rest, including comments."""
    file, lock = home / "site.yaml", FileLock(home / "agent.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IdentityError("this site's agent runs: stop it before its data or base are replaced") from None
    except OSError as error:
        raise IdentityError(f"cannot write in {home}: {error.strerror}") from None
    try:
        text = file.read_text(encoding="utf-8").rstrip() + "\n"
        for key, value in changes.items():
            line = yaml.safe_dump({key: value}, width=10**6, allow_unicode=True)
            begin, end = _line_of(key, text)
            text = text[:begin] + line + text[end:]
        draft = home / "site.yaml.new"
        draft.write_text(text, encoding="utf-8")
        after = load_site(draft)
        if {"data": str(after.data), "base": after.base} != changes:
            draft.unlink()
            raise ConfigError(f"{file}: write `data` and `base` on one line each, or change them by hand")
        draft.replace(file)
    finally:
        lock.release()
