"""Check the federation's store: access to the bucket, and the rights of each site's user."""

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from fedllm.coordinator.members import StoreAccess, store_iam
from fedllm.doctor.finding import Finding, fail, ok, warn
from fedllm.endpoints.store_users import users_with
from fedllm.errors import AccessDeniedError, ConfigError, ExchangeError, ObjectNotFoundError
from fedllm.exchange.iam import access_key, site_policy
from fedllm.exchange.store import ObjectStore
from fedllm.protocol.layout import Layout

_LEAST = 1000  # bytes of the probe

# A policy's statements: effect, actions, resources, and all other fields as JSON.
Statements: TypeAlias = frozenset[tuple[str, frozenset[str], frozenset[str], str]]


def store(access: StoreAccess, federation: str) -> Iterator[Finding]:
    """Check that a probe under the coordinator's own prefix can be written, read and removed."""
    where = access.url + (f" at {access.endpoint}" if access.endpoint else "")
    if not access.has_users and not _folder(access.url).is_dir():
        yield ok("store", f"{where} is not there yet: made at first use")
        return
    try:
        seconds = _probe(access.connect(), federation)
    except AccessDeniedError as error:
        own = "`fedllm up` renews the keys and rights of its own users"
        remedy = own if access.registrar else "correct FEDLLM_ACCESS_KEY, FEDLLM_SECRET_KEY or their rights"
        yield fail("store", f"{where}: {error}", remedy)
    except ExchangeError as error:
        yield fail("store", f"{where}: {error}", "start the store, create its bucket, or correct store.url")
    else:
        yield ok("store", f"{where}: written, read and removed in {seconds * 1000:.0f} ms")


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _probe(connected: ObjectStore, federation: str) -> float:
    """Write, read and remove a probe; return the time in s. Raises `ExchangeError` if a step fails."""
    key = f"{Layout(federation).coordinator_prefix}doctor-{secrets.token_hex(8)}"
    sent = os.urandom(_LEAST)
    begun = time.monotonic()
    connected.put(key, sent)
    try:
        read = connected.get(key, limit=_LEAST)
    finally:
        connected.delete(key)
    if read != sent:
        raise ExchangeError("the bytes read differ from those written")
    with suppress(ObjectNotFoundError):
        connected.get(key, limit=_LEAST)
        raise ExchangeError("a removed object can still be read")
    return time.monotonic() - begun


def site_users(access: StoreAccess, federation: str, sites: Sequence[str]) -> Iterator[Finding]:
    """Check that exactly the roster's sites have users, each with exactly its own policy."""
    if not access.has_users:
        yield ok("site users", "a folder has no users: only for tests and simulation")
        return
    iam = store_iam(access)
    try:
        users, policies = iam.users(), iam.policies()
    except AccessDeniedError as error:
        yield warn("site users", str(error), "check with the keys of the store's administrator")
        return
    faults = []
    for site in sites:
        name = access_key(federation, site)
        right = _plain(site_policy(iam.bucket, federation, site))
        if name not in users:
            faults.append(f"{name} is missing")
        elif users[name] != name:
            faults.append(f"{name} has the policy {users[name] or 'of nobody: it is disabled'}")
        elif name not in policies:
            faults.append(f"the policy {name} is missing")
        elif _plain(policies[name]) != right:
            faults.append(
                f"the policy {name} is not the one of its site: {_difference(policies[name], right)}"
            )
    members = {access_key(federation, site) for site in sites}
    strangers = sorted(
        name
        for name in users.keys() | policies.keys()
        if name.startswith(f"{federation}.") and name not in members
    )
    yield from _others(users, policies, iam.bucket, federation)
    if faults:
        yield fail("site users", "; ".join(faults), "`fedllm site add CARD --replace` renews user and policy")
    elif strangers:
        remedy = "`fedllm site revoke NAME`, or remove the user in MinIO"
        yield fail("site users", f"not in the roster: {', '.join(strangers)}", remedy)
    else:
        yield ok("site users", f"{len(sites)}, each with the policy of its own prefix")


def _others(
    users: Mapping[str, str], policies: Mapping[str, Any], bucket: str, federation: str
) -> Iterator[Finding]:
    """Check that users other than this federation's sites have no more rights than fedllm gives them."""
    excess = []
    for name, attached in users.items():
        if name.startswith(f"{federation}."):
            continue
        excess += [
            f"{name} has the policy {policy}"
            for policy in filter(None, attached.split(","))
            if _reaches(_plain(policies.get(policy, {})) - _granted(bucket, name), bucket)
        ]
    if excess:
        remedy = "remove unwanted users in MinIO; `fedllm up` renews the policies of its own users"
        yield fail("store users", f"too many rights: {'; '.join(sorted(excess))}", remedy)


def _granted(bucket: str, name: str) -> Statements:
    """Return the statements that fedllm grants a user of this name; none for an unknown user."""
    for user in users_with("", "", ""):
        if user.name == name:
            return _plain(user.policy)
    try:
        return _plain(site_policy(bucket, *name.split(".")))
    except (ConfigError, TypeError):
        return frozenset()


def _reaches(statements: Statements, bucket: str) -> bool:
    """Return whether the statements may allow administration, or access to this bucket."""
    for effect, actions, resources, _ in statements:
        if effect != "Allow":
            continue
        if any(action.startswith(("admin:", "*")) for action in actions):
            return True
        if any(f":::{bucket}" in at or ":::*" in at for at in resources):
            return True
    return False


def _plain(policy: Mapping[str, Any]) -> Statements:
    """Return a policy's statements without the order of its lists, which servers choose."""
    return frozenset(
        (
            str(statement.get("Effect")),
            _listed(statement.get("Action")),
            _listed(statement.get("Resource")),
            _conditions(statement),
        )
        for statement in policy.get("Statement", [])
    )


_KNOWN = {"Effect", "Action", "Resource"}


def _conditions(statement: Mapping[str, Any]) -> str:
    """Return a statement's other fields as JSON, normalised: servers may write a value as a list of one."""
    more = {key: value for key, value in statement.items() if key not in _KNOWN}
    for kind, keys in (more.get("Condition") or {}).items():
        more["Condition"] = more["Condition"] | {kind: {k: sorted(_listed(v)) for k, v in keys.items()}}
    return json.dumps(more, sort_keys=True).lower()


def _listed(value: object) -> frozenset[str]:
    values = [value] if isinstance(value, str) else value
    return frozenset(map(str, values if isinstance(values, list) else []))


def _difference(policy: Mapping[str, Any], right: Statements) -> str:
    more = _plain(policy) - right
    lines = [f"{effect} {'|'.join(sorted(act))} on {'|'.join(sorted(what))}" for effect, act, what, _ in more]
    return "; ".join(sorted(lines)) or "a statement is missing"
