"""The verbs `fedllm cancel`, `events`, `gc` and `rekey`: manage trainings, storage and keys."""

import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config
from fedllm.cli.output import emit
from fedllm.config import load_federation
from fedllm.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(cancel)
    app.command()(events)
    app.command()(gc)
    app.command()(rekey)


def cancel(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    *,
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """Stop a training: its coordinator, wherever that runs, and every site."""
    from fedllm.coordinator.cancel import cancel as stop

    stop(load_federation(config), run)
    payload: dict[str, object] = {"schema": "fedllm.cancel/1", "run_id": run, "status": "cancelled"}
    emit(as_json, payload, f"{run} is cancelled; the completed rounds stay, --resume {run} goes on from them")


def events(
    *,
    config: Config = FEDERATION,
    home: Annotated[Path | None, typer.Option(help="A site's folder: show what the site refused.")] = None,
    run: Annotated[str | None, typer.Option(help="Those of one run.")] = None,
    as_json: AsJson = False,
) -> None:
    """The record of security events: what was refused, from whom and why."""
    if home is not None:
        from fedllm.agent.memory import Memory

        if not (home / "memory.db").is_file():
            raise ConfigError(f"{home}: no agent has run here: name the folder of a site")
        with closing(Memory(home / "memory.db")) as memory:
            rows = memory.security.events(run)
    else:
        from fedllm.journal.journal import Journal

        with closing(Journal(load_federation(config).name)) as journal:
            rows = journal.security.events(run)
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(event.last))}Z  {event.kind:12} {event.party:16} "
        f"{event.run or '-'} {event.round}  {event.reason}"
        + (f"  ({event.times} times)" if event.times > 1 else "")
        for event in rows
    ]
    payload: dict[str, object] = {"schema": "fedllm.events/1", "events": [asdict(event) for event in rows]}
    emit(as_json, payload, "\n".join(lines) or "no security event is on record")


def gc(
    *,
    config: Config = FEDERATION,
    days: Annotated[float, typer.Option(min=0, help="Leave runs alone that ended since.")] = 7.0,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, only say what.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what trainings that are over left in the store and on this disk.

    Signed records, every registered version, every ledger and what a run needs to go on are kept.
    """
    from fedllm.coordinator.garbage import find_garbage, remove_garbage
    from fedllm.coordinator.members import store_access
    from fedllm.journal.journal import Journal

    federation = load_federation(config)
    store = store_access(federation).connect()
    with closing(Journal(federation.name)) as journal:
        garbage = find_garbage(journal, store, older_than=days * 86400)
    size = garbage.size
    left = remove_garbage(store, garbage) if delete else []
    payload: dict[str, object] = {
        "schema": "fedllm.gc/1",
        "deleted": delete,
        "objects": len(garbage.objects),
        "files": len(garbage.files),
        "bytes": size,
        "left": left,
    }
    did = "removed" if delete else "would remove"
    lines = [f"{did} {len(garbage.objects)} objects and {len(garbage.files)} files, {size / 1e6:.1f} MB"]
    lines += [f"  {entry.key}" for entry in garbage.objects[:20]]
    lines += [f"  {path}" for path in garbage.files[:20]]
    if len(garbage.objects) > 20 or len(garbage.files) > 20:  # noqa: PLR2004 - what fits a screen
        lines.append("  and more")
    lines += [f"not removed: {reason}" for reason in left]
    if not delete and (garbage.objects or garbage.files):
        lines.append("with --delete they are removed")
    emit(as_json, payload, "\n".join(lines))


def rekey(
    *,
    config: Config = FEDERATION,
    out: Annotated[Path, typer.Option(help="Folder for the new invitations.")] = Path("invitations"),
    as_json: AsJson = False,
) -> None:
    """Between trainings: new keys for the coordinator, and a new invitation for every site."""
    from fedllm.coordinator.members import coordinator_identity
    from fedllm.coordinator.rekey import rekey_coordinator
    from fedllm.secure.identity import fingerprint

    federation = load_federation(config)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from None
    written = []
    for site, invitation in rekey_coordinator(federation).items():
        path = out / f"{site}.invitation"
        path.write_bytes(invitation)
        written.append(str(path))
    mark = fingerprint(coordinator_identity(federation.name).public)
    payload: dict[str, object] = {
        "schema": "fedllm.rekey/1",
        "coordinator_fingerprint": mark,
        "invitations": written,
    }
    emit(
        as_json,
        payload,
        f"new keys of the coordinator; tell every site over the telephone: {mark}\n"
        f"and send it its invitation from {out}; the site removes coordinator-{federation.name}.json from "
        f"its folder and runs  fedllm agent --invitation FILE --coordinator {mark}",
    )
