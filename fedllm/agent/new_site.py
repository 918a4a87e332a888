"""`fedllm site init`: everything is looked at before anything is written; what exists is kept."""

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
    """What `make_site` came to."""

    card: Path
    state: Literal["made", "kept", "replaced"]
    base: str
    ready: bool  # the base model needs no fetching or converting
    checked: bool  # the records, against a federation's task
    found: Inspection


@dataclass(frozen=True)
class Wanted:
    """What a site is to hold. None: as the federation file, or the site that is there, has it."""

    name: str
    data: Path
    home: Path
    base: str | None = None
    federation: FederationConfig | None = None
    max_left_out: float | None = None  # the policy's share of the rows


def make_site(wanted: Wanted, *, replace: bool = False) -> NewSite:
    """Make a site, or look again at one that is there.

    Args:
        wanted: the site.
        replace: let a site that is there hold these data and this base. Keys, policy and ledger stay.

    Raises:
        ConfigError: the site is there with other data or another base, and `replace` is not given.
        DataError: the data cannot be read, or more of the rows than the policy lets be left out.
        IdentityError: no name for a site, a home that is another site's or cannot be written in, or whose
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
    found = first_look(wanted.data, task, folder, wanted.home)
    same = before is not None and (before.data, before.base) == (wanted.data.resolve(), base)
    if not same:  # of a site that is kept, what is found is told and nothing depends on it
        most = before.policy.max_left_out if before else wanted.max_left_out
        _refuse_faulty(wanted.data, found, PolicyConfig().max_left_out if most is None else most)
    if before is not None and not same:
        _change(wanted.home, {"data": str(wanted.data.resolve()), "base": base})
    settings: dict[str, object] = {"base": base}
    if wanted.max_left_out is not None:
        settings["policy"] = {"max_left_out": wanted.max_left_out}
    card = init_site(wanted.name, wanted.data, wanted.home, **settings)
    if wanted.federation is not None:
        keep_task(wanted.home, wanted.federation.task)
    state: Literal["made", "kept", "replaced"] = "made" if before is None else "kept" if same else "replaced"
    return NewSite(card, state, base, folder is not None, task is not None, found)


def _refuse_another(wanted: Wanted, before: SiteConfig, *, replace: bool) -> None:
    """Refuse to change a site that is there, unless that is what is asked for."""
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
            f"{wanted.name} exists, with {' and '.join(others)}: nothing is changed; add --replace to let it "
            "hold what you name now, with the keys, policy and ledger that it has"
        )


def _usual_base(federation: FederationConfig | None) -> str:
    return federation.model.base if federation else DEFAULT_BASE


def _checked_base(base: str, source: str) -> Path | None:
    try:
        return prepared_base(base)
    except ModelError as error:
        raise ModelError(f"{source} {base}: {str(error).removeprefix('model.base: ')}") from None


def _refuse_faulty(data: Path, found: Inspection, most: float) -> None:
    if found.usable and found.share <= most:
        return
    faults = listed(found.left_out) if found.left_out else "all records are withdrawn"
    raise DataError(
        f"{data}: {len(found.left_out)} of {found.rows} rows cannot be used, more than a site leaves out "
        f"({most:g} of them; --max-left-out, policy.max_left_out): {faults}. Names of fields and labels are "
        "the federation's: write yours so, or ask its coordinator to name yours in `task`"
    )


def _line_of(key: str, text: str) -> tuple[int, int]:
    """Where the line of a top-level key begins and ends in a YAML text; its end twice where there is none."""
    found = re.search(rf"(?m)^{key}:[^\n]*\n?", text)
    return found.span() if found else (len(text), len(text))


def _change(home: Path, changes: dict[str, str]) -> None:
    """Write other values into a site file, and leave all else of it, comments too, as it is."""
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
            raise ConfigError(f"{file}: write `data` and `base` on a line each, or change them by hand")
        draft.replace(file)
    finally:
        lock.release()
