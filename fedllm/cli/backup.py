"""The verbs `fedllm backup` and `fedllm restore`: put a home into one archive, and bring it back."""

import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import AsJson
from fedllm.cli.output import console, emit
from fedllm.config import load_federation
from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.backup.manifest import Manifest
    from fedllm.backup.restore import Restored

_SHOWN = 3  # most object keys in a message

Identity = Annotated[
    Path | None, typer.Option(help="File (mode 600) of the age identity that opens a sealed archive.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[
        Path | None, typer.Argument(help="The archive to write (mode 600), such as 2026-11-26.tar.")
    ] = None,
    *,
    recipient: Annotated[
        list[str] | None,
        typer.Option(help="Seal the archive for this age recipient (age1…); may be repeated. Do so."),
    ] = None,
    keys: Annotated[bool, typer.Option("--keys/--no-keys", help="Put private keys and passwords in.")] = True,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="A federation with a store of its own that has not trained yet."),
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Only check this archive: every member against its hash.")
    ] = None,
    identity: Identity = None,
    as_json: AsJson = False,
) -> None:
    """Journal, keys, sites, ledgers, MLflow, Prefect and the buckets' objects in one archive.

    It may be taken while a training runs.
    """
    from fedllm.backup.create import create_backup
    from fedllm.backup.reading import verify as check

    if (out is None) == (verify is None):
        raise ConfigError("name the archive to write, or one to check with --verify")
    if verify is not None:
        _tell("verified", verify, check(verify, identity), as_json)
        return
    assert out is not None  # noqa: S101 - checked above
    configs = [load_federation(path) for path in config or ()]
    with _ended_by_sigterm():
        manifest = create_backup(
            out, recipients=recipient or (), keys=keys, configs=configs, progress=console().print
        )
    if keys and not recipient:
        console().print(
            f"{out} holds private keys and is not encrypted: seal backups with --recipient, or guard this "
            "one as you guard the keys"
        )
    _tell("written", out, manifest, as_json)


def restore(
    archive: Annotated[Path, typer.Argument(help="What `fedllm backup` wrote.")],
    *,
    into: Annotated[Path | None, typer.Option(help="An empty home. Default: FEDLLM_HOME.")] = None,
    identity: Identity = None,
    keep_objects: Annotated[
        bool,
        typer.Option("--keep-objects", help="Leave the objects of a store of your own as they are there."),
    ] = False,
    nothing_spent: Annotated[
        bool,
        typer.Option(
            "--nothing-spent",
            help="Your word that no training with privacy ran after this backup: ledgers stay as they are.",
        ),
    ] = False,
    store: Annotated[
        list[str] | None,
        typer.Option(help="A folder (file:///…) that the archive's objects may be written to."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a backup back into an empty home; everything is checked before anything is written."""
    from fedllm.backup.restore import restore as restore_backup

    if into is not None:
        os.environ["FEDLLM_HOME"] = str(into)
    with _ended_by_sigterm():
        done = restore_backup(
            archive,
            identity=identity,
            keep_objects=keep_objects,
            nothing_spent=nothing_spent,
            stores=store or (),
            progress=console().print,
        )
    unfinished = {name: list(mark.unfinished) for name, mark in done.manifest.federations.items()}
    payload: dict[str, object] = {
        "schema": "fedllm.restore/1",
        "archive": str(archive),
        "taken": _when(done.manifest),
        "objects": done.objects,
        "unfinished": unfinished,
        "retired": [{"dataset": r.dataset, "run": r.run, "steps": r.steps} for r in done.retired],
        "given_up": [{"site": site, "run": run, "round": number} for site, run, number in done.given_up],
        "unread": list(done.unread),
        "missing": list(done.missing),
        "invite": {name: list(sites) for name, sites in done.outside.items()},
    }
    emit(as_json, payload, "\n".join(_next_steps(done, into)))


def _next_steps(done: "Restored", into: Path | None) -> list[str]:
    home = f"FEDLLM_HOME={shlex.quote(str(into.resolve()))} " if into is not None else ""
    lines = [f"restored to {_when(done.manifest)}; start the servers with  {home}fedllm up"]
    for name, sites in done.outside.items():
        lines.append(f"invite the sites of {name} anew (fedllm site add CARD): {', '.join(sites)}")
    for name, mark in done.manifest.federations.items():
        if mark.unfinished:
            lines.append(f"{name} can go on with  fedllm run FILE --resume {mark.unfinished[-1]}")
    lines += [
        f"the ledger of {row.dataset} counts all of {row.run} as spent ({row.steps} steps more): steps may "
        "have been taken after the backup"
        for row in done.retired
    ]
    lines += [
        f"{site} gives up round {number} of {run}: it is charged, and its update may have been sent"
        for site, run, number in done.given_up
    ]
    lines += [
        f"{site}/site.yaml cannot be read, and no agent starts there: when you mend it, see that the privacy "
        "ledger that it names is the newest there is"
        for site in done.unread
    ]
    if done.missing:
        lines.append(
            f"{len(done.missing)} of the archive's objects are not in the store that was left as it is "
            "(updates of rounds that ended since may be missing, nothing else): "
            + ", ".join(done.missing[:_SHOWN])
            + (", …" if len(done.missing) > _SHOWN else "")
        )
    return lines


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block with an exception, as Ctrl-C does, so that it cleans up."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second SIGTERM must not interrupt the clean-up
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _tell(status: str, path: Path, manifest: "Manifest", as_json: bool) -> None:
    payload: dict[str, object] = {
        "schema": "fedllm.backup/1",
        "status": status,
        "archive": str(path),
        "taken": _when(manifest),
        "members": len(manifest.members),
        "objects": len(manifest.objects),
        "bytes": manifest.size,
        "keys": manifest.keys,
        "federations": {name: mark.model_dump(mode="json") for name, mark in manifest.federations.items()},
        "ledgers": [mark.model_dump() for mark in manifest.ledgers],
        "postgres": list(manifest.databases),
        "lost": list(manifest.lost),
    }
    text = (
        f"{path} {'is whole' if status == 'verified' else 'is written'}: {len(manifest.members)} members, "
        f"{manifest.size / 1e6:.1f} MB, taken {_when(manifest)}"
    )
    emit(as_json, payload, text)


def _when(manifest: "Manifest") -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(manifest.taken))
