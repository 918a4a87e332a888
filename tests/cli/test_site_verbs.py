"""`fedllm site` as a user runs it: keys at the site, a card to the coordinator, an invitation back."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedllm.agent.join import accept_invitation, init_site, read_card
from fedllm.config import load_federation
from fedllm.coordinator.members import add_site
from fedllm.errors import IdentityError
from fedllm.secure.identity import create_identity, fingerprint
from tests.cli.in_process import Done, fedllm

CONFIG = {"name": "fed", "task": {"kind": "text", "fields": {"text": "text"}}}


class Place:
    """A machine's folders, and the command line there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.config = folder / "fed.yaml"
        self.config.write_text(yaml.safe_dump(CONFIG | {"store": {"url": f"file://{folder / 'store'}"}}))
        self.data = folder / "amazon.jsonl"
        self.data.write_text('{"text": "one"}\n{"text": "two"}\n')

    def run(self, *arguments: str | Path) -> Done:
        return fedllm(*arguments, folder=self.folder, FEDLLM_HOME=self.home)

    def told(self, *arguments: str | Path) -> dict[str, Any]:
        """What a verb that succeeds says as JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    def site(self, name: str) -> Path:
        """A site's home, made without the command line."""
        home = self.folder / "elsewhere" / name
        init_site(name, self.data, home)
        return home


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, dict[str, Any], dict[str, Any]]:
    """A place where amazon was made and added, and what both verbs said. Tests do not change it."""
    place = Place(tmp_path_factory.mktemp("joined"))
    made = place.told("site", "init", "amazon", "--data", place.data)
    return place, made, place.told("site", "add", made["card"], "--config", place.config)


Joined = tuple[Place, dict[str, Any], dict[str, Any]]


def test_init_says_where_everything_is(joined: Joined) -> None:
    place, made, _ = joined
    home = place.home / "sites" / "amazon"
    assert made == {
        "schema": "fedllm.site-init/1",
        "site": "amazon",
        "state": "made",
        "home": str(home),
        "card": str(home / "card.json"),
        "examples": 2,
        "left_out": 0,
        "findings": [],
        "fingerprint": fingerprint(read_card(home / "card.json")),
    }


def test_init_again_keeps_the_keys(place: Place) -> None:
    first = place.told("site", "init", "amazon", "--data", place.data)
    assert place.told("site", "init", "amazon", "--data", place.data) == first | {"state": "kept"}


def test_a_card_holds_public_keys_alone(joined: Joined) -> None:
    _, made, _ = joined
    card = Path(made["card"])
    private = [
        line
        for name in ("sign.key", "age.key")
        for line in (card.parent / "keys" / name).read_text().splitlines()
        if not line.startswith("-----")
    ]
    assert json.loads(card.read_text()).keys() == {"name", "verify", "recipient"}
    assert not [line for line in private if line in card.read_text()]


def test_only_their_owner_reads_the_keys(joined: Joined) -> None:
    _, made, _ = joined
    home = Path(made["home"])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home / "keys").iterdir()}
    assert modes == {"sign.key": 0o600, "age.key": 0o600, "public.json": 0o600}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home, home / "keys")] == [0o700, 0o700]


def test_add_writes_an_invitation_that_the_site_opens(joined: Joined) -> None:
    place, made, added = joined
    member = accept_invitation(place.folder / added["invitation"], Path(made["home"]))
    assert member.invitation.federation == "fed"
    assert member.invitation.store_url == f"file://{place.folder / 'store'}"
    assert fingerprint(member.invitation.coordinator) == added["coordinator_fingerprint"]


def test_another_site_cannot_open_the_invitation(joined: Joined) -> None:
    place, _, added = joined
    with pytest.raises(IdentityError, match="not sealed for movies"):
        accept_invitation(place.folder / added["invitation"], place.site("movies"))


def test_add_says_the_sites_fingerprint_for_comparison(joined: Joined) -> None:
    _, made, added = joined
    assert (added["site"], added["fingerprint"]) == ("amazon", made["fingerprint"])


def test_an_invitation_from_the_coordinator_that_was_told_is_accepted(joined: Joined) -> None:
    place, made, added = joined
    expected = added["coordinator_fingerprint"]
    member = accept_invitation(place.folder / added["invitation"], Path(made["home"]), expected=expected)
    assert member.site.name == "amazon"


def test_an_invitation_from_another_coordinator_than_was_told_is_refused(
    joined: Joined, tmp_path: Path
) -> None:
    place, made, added = joined
    other = fingerprint(create_identity(tmp_path / "other", "coordinator").public)
    with pytest.raises(IdentityError, match="not from the expected coordinator"):
        accept_invitation(place.folder / added["invitation"], Path(made["home"]), expected=other)


def test_the_agent_verb_refuses_another_coordinator_than_was_told(joined: Joined) -> None:
    place, made, added = joined
    invitation = place.folder / added["invitation"]
    done = place.run("agent", "--invitation", invitation, "--coordinator", made["fingerprint"])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not from the expected coordinator" in done.stderr


def test_list_shows_the_roster(joined: Joined) -> None:
    place, made, _ = joined
    assert place.told("site", "list", "--config", place.config) == {
        "schema": "fedllm.site-list/1",
        "federation": "fed",
        "roster_version": 1,
        "sites": [{"site": "amazon", "fingerprint": made["fingerprint"]}],
    }


def test_a_site_that_is_added_again_is_in_the_roster_once(place: Place) -> None:
    card = place.site("amazon") / "card.json"
    for _ in range(2):
        place.told("site", "add", card, "--config", place.config)
    listed = place.told("site", "list", "--config", place.config)
    assert (listed["roster_version"], len(listed["sites"])) == (1, 1)


def test_a_taken_name_with_other_keys_is_refused(joined: Joined, tmp_path: Path) -> None:
    place, _, _ = joined
    card = init_site("amazon", place.data, tmp_path / "impostor")
    out = tmp_path / "x.invitation"
    done = place.run("site", "add", card, "--config", place.config, "--out", out)
    assert (done.returncode, out.exists()) == (1, False)
    assert done.stderr.startswith("fedllm: amazon is in the roster with other keys: choose another name")
    assert done.stderr.count("\n") == 1


def test_a_card_with_the_keys_of_a_member_under_another_name_is_refused(
    joined: Joined, tmp_path: Path
) -> None:
    # Every site would refuse the roster with it, and the federation would stand still.
    place, made, _ = joined
    copied = json.loads(Path(made["card"]).read_text())
    own = json.loads(init_site("copycat", place.data, tmp_path / "copycat").read_text())
    for key in ("verify", "recipient"):
        card = tmp_path / f"{key}.json"
        card.write_text(json.dumps(own | {key: copied[key]}))
        done = place.run("site", "add", card, "--config", place.config)
        assert done.returncode == 1
        assert done.stderr.startswith("fedllm: copycat's card has the keys of amazon, which is in the roster")


@pytest.fixture
def member(place: Place) -> Path:
    """The home of a site that was added to a place of the test's own."""
    home = place.site("amazon")
    place.told("site", "add", home / "card.json", "--config", place.config)
    return home


def test_replaced_keys_are_taken_when_that_is_asked_for(place: Place, member: Path) -> None:
    before = place.told("site", "list", "--config", place.config)["sites"][0]["fingerprint"]
    new = place.told("site", "rekey", "--home", member)
    assert new["fingerprint"] != before
    assert place.run("site", "add", new["card"], "--config", place.config).returncode == 1
    place.told("site", "add", new["card"], "--config", place.config, "--replace")
    listed = place.told("site", "list", "--config", place.config)
    assert [site["fingerprint"] for site in listed["sites"]] == [new["fingerprint"]]
    assert listed["roster_version"] == 2
    accept_invitation(place.folder / "amazon.invitation", member)


def test_a_revoked_site_is_out_of_the_roster_and_its_name_is_free(
    place: Place, member: Path, tmp_path: Path
) -> None:
    assert member.exists()
    assert place.told("site", "revoke", "amazon", "--config", place.config)["roster_version"] == 2
    assert place.told("site", "list", "--config", place.config)["sites"] == []
    events = place.told("events", "--config", place.config)["events"]
    assert [(event["kind"], event["party"]) for event in events] == [("revoked", "amazon")]
    card = init_site("amazon", place.data, tmp_path / "again")
    place.told("site", "add", card, "--config", place.config)
    done = place.run("site", "revoke", "nobody", "--config", place.config)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_new_keys_of_the_coordinator_come_with_an_invitation_a_site(place: Place, member: Path) -> None:
    accept_invitation(place.folder / "amazon.invitation", member)
    told = place.told("rekey", "--config", place.config, "--out", place.folder / "new")
    invitation = place.folder / "new" / "amazon.invitation"
    assert told["invitations"] == [str(invitation)]
    with pytest.raises(IdentityError, match="another coordinator"):
        accept_invitation(invitation, member)
    (member / "coordinator-fed.json").unlink()
    assert accept_invitation(invitation, member, told["coordinator_fingerprint"])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("init", "amazon", "--data", "none.jsonl"), 1, "none.jsonl: no such file"),
        (("add", "none.json", "--config", "fed.yaml"), 1, "none.json: cannot be read"),
        (("add", "fed.yaml", "--config", "fed.yaml"), 1, "fed.yaml: no site card"),
        (("list", "--config", "none.yaml"), 2, "none.yaml: no such file"),
    ],
)
def test_an_absent_or_wrong_file_is_one_line_and_a_true_exit_code(
    place: Place, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = place.run("site", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(f"fedllm: {reason}")


def test_an_invitation_that_cannot_be_written_is_one_line(place: Place) -> None:
    card = place.site("amazon") / "card.json"
    done = place.run("site", "add", card, "--config", place.config, "--out", "no/such/folder/x")
    assert (done.returncode in {1, 2}, done.stderr.count("\n")) == (True, 1)


def test_a_home_that_cannot_be_made_is_one_line(place: Place) -> None:
    done = place.run("site", "init", "amazon", "--data", place.data, "--home", place.data)
    assert (done.returncode in {1, 2}, done.stderr.count("\n")) == (True, 1)


def test_what_a_simulation_made_is_taken_out_at_once_and_real_sites_may_join(place: Place) -> None:
    federation = load_federation(place.config)
    made = read_card(place.site("made") / "card.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(place.home))
        add_site(federation, made, origin="simulated")
    card = place.site("amazon") / "card.json"
    refused = place.run("site", "add", card, "--config", place.config)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "fedllm site revoke --simulated" in refused.stderr
    assert not (place.folder / "amazon.invitation").exists()
    for wrong in ((), ("made", "--simulated")):
        assert place.run("site", "revoke", *wrong, "--config", place.config).returncode == 2
    told = place.told("site", "revoke", "--simulated", "--config", place.config)
    assert told["sites"] == ["made"]
    assert place.told("site", "add", card, "--config", place.config)["site"] == "amazon"
