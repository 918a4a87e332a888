"""The verbs `fedllm site …`: keys at the site, roster and invitations at the coordinator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config, Home
from fedllm.cli.output import emit
from fedllm.config import load_federation
from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.agent.new_site import NewSite

app = typer.Typer(no_args_is_help=True)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="The site's name in the federation.")],
    data: Annotated[Path, typer.Option(help="JSON lines; they never leave this machine.")],
    *,
    config: Annotated[
        Path | None, typer.Option(help="The federation file: records are checked against its task.")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="The site's folder. Default: in fedllm's home.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The base model that this site holds. Default: the federation's, smollm2-135m."),
    ] = None,
    max_left_out: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="The share of the rows that may be unusable. Default: 0.1."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let a site that exists hold these data; its keys stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """At the site: check its records, make its keys and its file, and a card for the coordinator."""
    from fedllm.agent.join import default_site_home, read_card
    from fedllm.agent.new_site import Wanted, make_site
    from fedllm.secure.identity import fingerprint

    folder = (home or default_site_home(name)).resolve()
    federation = load_federation(config) if config else None
    made = make_site(Wanted(name, data, folder, base, federation, max_left_out), replace=replace)
    mark = fingerprint(read_card(made.card))
    payload: dict[str, object] = {
        "schema": "fedllm.site-init/1",
        "site": name,
        "state": made.state,
        "home": str(folder),
        "card": str(made.card),
        "examples": made.found.usable,
        "left_out": len(made.found.left_out),
        "findings": made.found.lines(),
        "fingerprint": mark,
    }
    emit(as_json, payload, "\n".join(_init_lines(name, folder, mark, made)))


def _init_lines(name: str, folder: Path, mark: str, made: "NewSite") -> list[str]:
    """Return the text of `site init`."""
    state = {
        "made": f"keys and policy are in {folder}",
        "kept": f"the site exists in {folder}, nothing is changed",
        "replaced": f"the site in {folder} holds these now, with the keys, policy and ledger that it had",
    }[made.state]
    lines = [f"{name} holds {made.found.usable} examples; {state}"]
    lines += [f"  {line}" for line in made.found.lines()]
    if not made.checked:
        lines.append(
            "  add --config FEDERATION.yaml to check labels and fields against the federation's task"
        )
    if not made.ready:
        lines.append(f"  the base model {made.base} is made ready when the agent starts")
    return [*lines, f"send the coordinator  {made.card}", f"and tell them over the telephone: {mark}"]


@app.command()
def add(
    card: Annotated[Path, typer.Argument(help="The card that `site init` made.")],
    *,
    config: Config = FEDERATION,
    out: Annotated[
        Path | None, typer.Option(help="Where the invitation goes. Default: SITE.invitation")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Put these keys in the place of others, or cut a running agent off."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """At the coordinator: take a site into the roster, make its store user, seal its invitation."""
    from fedllm.agent.join import read_card
    from fedllm.coordinator.members import add_site, coordinator_identity
    from fedllm.coordinator.running_agent import refuse_running
    from fedllm.secure.identity import fingerprint

    keys = read_card(card)
    federation = load_federation(config)
    path = out or Path(f"{keys.name}.invitation")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}")
    if not replace:
        refuse_running(federation, keys)
    path.write_bytes(add_site(federation, keys, replace=replace))
    own = fingerprint(coordinator_identity(federation.name).public)
    payload: dict[str, object] = {
        "schema": "fedllm.site-add/1",
        "site": keys.name,
        "fingerprint": fingerprint(keys),
        "coordinator_fingerprint": own,
        "invitation": str(path),
    }
    emit(
        as_json,
        payload,
        f"{keys.name} is in the roster of {federation.name}; compare its fingerprint: {fingerprint(keys)}\n"
        f"send it  {path}  (sealed for it alone); ours is {own}\n"
        f"the site runs  fedllm agent --invitation {path.name} --coordinator {own}",
    )


@app.command()
def revoke(
    name: Annotated[str | None, typer.Argument(help="The site.")] = None,
    *,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Take out all that a simulation made, in place of a NAME.")
    ] = False,
    reason: Annotated[str, typer.Option(help="For the record of security events.")] = "",
    config: Config = FEDERATION,
    as_json: AsJson = False,
) -> None:
    """At the coordinator: take a site out at once, its store user and its sessions with it."""
    from fedllm.coordinator.revoke import revoke_simulated, revoke_site

    if (name is None) is not simulated:
        raise ConfigError("name the site to take out, or give --simulated for all that a simulation made")
    federation = load_federation(config)
    if name is None:
        names = revoke_simulated(federation)
        gone: dict[str, object] = {"schema": "fedllm.site-revoke/1", "sites": names}
        emit(as_json, gone, f"{', '.join(names)} are out: real sites may join {federation.name} now")
        return
    version = revoke_site(federation, name, reason)
    payload: dict[str, object] = {"schema": "fedllm.site-revoke/1", "site": name, "roster_version": version}
    emit(
        as_json,
        payload,
        f"{name} is out: roster {version} is published and its store user is gone\n"
        "models of earlier rounds still hold what it contributed",
    )


@app.command()
def rekey(
    *,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """At the site, between trainings: make new keys and a new card; the former keys are kept beside them."""
    from fedllm.agent.join import only_home, read_card
    from fedllm.agent.rekey import rekey_site
    from fedllm.secure.identity import fingerprint

    card = rekey_site((home or only_home()).resolve())
    mark = fingerprint(read_card(card))
    payload: dict[str, object] = {"schema": "fedllm.site-rekey/1", "card": str(card), "fingerprint": mark}
    emit(
        as_json,
        payload,
        f"new keys; send the coordinator  {card}\nand tell them over the telephone: {mark}\n"
        "they run  fedllm site add CARD --replace  and send a new invitation",
    )


@app.command()
def announce(
    *,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """At the site: tell the coordinator that there are new data. Nothing else about them is told."""
    from contextlib import closing

    from fedllm.agent.announce import announce as raise_number
    from fedllm.agent.join import only_home
    from fedllm.agent.memory import Memory
    from fedllm.config import load_site

    folder = (home or only_home()).resolve()
    site = load_site(folder / "site.yaml")
    with closing(Memory(folder / "memory.db")) as memory:
        number = raise_number(memory)
    payload: dict[str, object] = {"schema": "fedllm.site-announce/1", "site": site.name, "announced": number}
    emit(as_json, payload, f"announced, number {number}: the agent's next card says so")


@app.command("list")
def list_sites(*, config: Config = FEDERATION, as_json: AsJson = False) -> None:
    """At the coordinator: the roster."""
    from fedllm.coordinator.federations import other_federations
    from fedllm.coordinator.members import coordinator_identity, roster_of
    from fedllm.journal.journal import Journal
    from fedllm.secure.identity import fingerprint

    federation = load_federation(config)
    journal = Journal(federation.name)
    roster = roster_of(journal, coordinator_identity(federation.name))
    journal.close()
    sites = [{"site": keys.name, "fingerprint": fingerprint(keys)} for keys in roster.sites]
    payload: dict[str, object] = {
        "schema": "fedllm.site-list/1",
        "federation": federation.name,
        "roster_version": roster.roster_version,
        "sites": sites,
    }
    lines = [f"{federation.name}, roster {roster.roster_version}"]
    lines += [f"  {entry['site']:20} {entry['fingerprint']}" for entry in sites]
    if not sites:
        lines[0] += other_federations(federation.name)
    emit(as_json, payload, "\n".join(lines))
