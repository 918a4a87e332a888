"""The verbs `fedllm promote` and `fedllm rollback`: decide which version is champion, on record."""

import getpass
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config
from fedllm.cli.output import console, emit
from fedllm.config import load_federation
from fedllm.errors import ReviewError

if TYPE_CHECKING:
    from fedllm.config import FederationConfig
    from fedllm.review.register import Register, ReviewEvent
    from fedllm.review.review import Review
    from fedllm.secure.identity import Identity


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(promote)
    app.command()(rollback)


def promote(
    version: Annotated[
        str | None,
        typer.Argument(help="A number, models:/NAME/3 or models:/NAME@ALIAS. --check alone may do without."),
    ] = None,
    *,
    reviewer: Annotated[str, typer.Option(help="Who decides; asserted unless --sign vouches for it.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Reject it: no alias moves.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Show the card and its gates; decide nothing.")
    ] = False,
    sign: Annotated[bool, typer.Option("--sign", help="Sign it with the coordinator's keys.")] = False,
    key: Annotated[Path | None, typer.Option(help="Sign it with the keys in this folder instead.")] = None,
    over: Annotated[
        str | None,
        typer.Option(help="The champion that you were shown (a number, or none): another one refuses."),
    ] = None,
    pin: Annotated[
        str | None,
        typer.Option(help="The coordinator's fingerprint, where this machine is not the coordinator."),
    ] = None,
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion once its gates hold; the former champion is kept as `previous`."""
    federation = load_federation(config)
    from fedllm.stack.require_store import require_store

    require_store(federation.tracking.uri)
    from fedllm.review.decision import decision_request
    from fedllm.review.review import decide, review_version
    from fedllm.versions import open_register

    opened, rules = open_register(federation, pin)
    if check:
        _show(opened, review_version(opened, _number(opened, version), rules), config, as_json=as_json)
        return
    request = decision_request(approve=not reject, reviewer=reviewer, reason=reason)
    if version is None:
        raise ReviewError("say which version: fedllm promote --check shows the challenger and its number")
    signer = _signer(federation, key) if sign or key else None
    number = _number(opened, version)
    done = decide(opened, number, request, rules, notify=_tell, signer=signer, expect=_expected(over))
    payload: dict[str, object] = {
        "schema": "fedllm.promote/1",
        "status": done.decision.verdict,
        "name": opened.name,
        "version": done.decision.version,
        "uri": f"models:/{opened.name}/{done.decision.version}",
        "champion": done.aliases.champion,
        "previous": done.aliases.previous,
        "reviewer": done.who,
        "reason": done.decision.reason,
        "at": done.decision.at,
        "gates": {gate.name: {"verdict": gate.verdict, "says": gate.says} for gate in done.gates},
    }
    lines = [gate.words for gate in done.gates]
    lines.append(f"version {number} of {opened.name} was {done.decision.verdict} by {done.who}")
    lines.append(f"champion: {_named(done.aliases.champion)}, previous: {_named(done.aliases.previous)}")
    emit(as_json, payload, "\n".join(lines))


def rollback(
    *,
    taken_back: Annotated[
        str | None, typer.Option("--from", help="The champion to take back: another one refuses.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who decides. Default: the user's name.")] = None,
    reason: Annotated[str, typer.Option(help="Why.")] = "not said",
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """Make the previous champion the champion again."""
    from fedllm.review.decision import decision_request
    from fedllm.review.rollback import roll_back
    from fedllm.versions import open_register

    opened, _ = open_register(load_federation(config))
    request = decision_request(approve=True, reviewer=reviewer or getpass.getuser(), reason=reason)
    done = roll_back(opened, request.reviewer, request.reason, notify=_tell, expect=taken_back)
    payload: dict[str, object] = {
        "schema": "fedllm.rollback/1",
        "status": "rolled back",
        "name": opened.name,
        "from": done.version,
        "champion": done.to,
        "previous": done.then,
        "reviewer": done.who,
        "reason": done.reason,
        "at": done.at,
    }
    text = f"{opened.name}: version {done.to} is champion again, version {done.version} is not"
    emit(as_json, payload, f"{text}; previous: {_named(done.then)}")


def _expected(over: str | None) -> str | None:
    """Return the champion that the reviewer saw, in the form that `decide` takes."""
    from fedllm.review.review import ANY_CHAMPION

    if over is None:
        return ANY_CHAMPION
    if over != "none" and re.fullmatch(r"[1-9][0-9]*", over) is None:
        raise ReviewError(f"--over {over} names no version: write its number, or none")
    return None if over == "none" else over


def _number(opened: "Register", wanted: str | None) -> str:
    """Return the number of the version that a user named, else of the challenger."""
    if wanted is not None and re.fullmatch(r"[1-9][0-9]*", wanted):
        return wanted
    wanted = wanted or f"models:/{opened.name}@challenger"
    match = re.fullmatch(r"models:/([^/@]+)(?:/([1-9][0-9]*)|@(challenger|champion|previous))", wanted)
    if match is None:
        raise ReviewError(f"{wanted!r} names no version: write 3, models:/NAME/3 or models:/NAME@challenger")
    if match[1] != opened.name:
        raise ReviewError(f"{wanted} is of {match[1]}, --config names the federation file of {opened.name}")
    if match[2]:
        return match[2]
    from fedllm.tracking.connection import answering

    with answering(opened.uri):
        number: str | None = getattr(opened.aliases(), match[3])
    if number is None:
        raise ReviewError(f"{opened.name} has no {match[3]}: train first, or name a version")
    return number


def _signer(federation: "FederationConfig", folder: Path | None) -> "Identity":
    """Return the keys that sign: those in `folder`, else the coordinator's existing ones."""
    from fedllm.journal.location import coordinator_folder
    from fedllm.secure.identity import load_identity

    return load_identity(folder or coordinator_folder(federation.name) / "keys")


def _tell(event: "ReviewEvent") -> None:
    from fedllm.stack.prefect_events import send_event

    if not send_event(event):
        console().print("Prefect was not told of it: none is known, or it does not answer")


def _show(opened: "Register", review: "Review", config: Path, *, as_json: bool) -> None:
    from rich.markdown import Markdown

    from fedllm.review.card import Links, render_review
    from fedllm.review.decision import decision_on
    from fedllm.review.signed_decision import reviewer_label

    former = decision_on(review.version.name, review.version.version, review.version.tags)
    payload: dict[str, object] = {
        "schema": "fedllm.promote/1",
        "status": "checked",
        "name": review.version.name,
        "version": review.version.version,
        "champion": review.aliases.champion,
        "previous": review.aliases.previous,
        "gates": {gate.name: {"verdict": gate.verdict, "says": gate.says} for gate in review.gates},
        "decision": former
        and {
            "verdict": former.verdict,
            "reviewer": reviewer_label(former, review.version.tags),
            "reason": former.reason,
            "at": former.at,
        },
    }
    if not as_json:
        console().print(Markdown(render_review(review, Links(opened.uri))))
    emit(as_json, payload, _how_to_decide(review, config))


def _how_to_decide(review: "Review", config: Path) -> str:
    """Return the command that decides on this version over this champion; empty for the champion."""
    version, champion = review.version.version, review.aliases.champion
    if version == champion:
        return ""
    option = "" if config == FEDERATION else f" --config {shlex.quote(str(config))}"
    return f"to decide: fedllm promote {version} --over {champion or 'none'}{option} --reviewer … --reason …"


def _named(version: str | None) -> str:
    return f"version {version}" if version else "none"
