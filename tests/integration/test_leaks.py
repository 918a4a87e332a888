"""After a run, no text, label, token id, path or key of a site is anywhere outside that site."""

import json
import os
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from playground import end, fedllm

from fedllm.agent.join import accept_invitation, init_site, read_card
from fedllm.config import load_federation
from fedllm.coordinator.members import add_site
from fedllm.endpoints import Endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.exchange.minio_store import MinioStore
from fedllm.models.base import load_base, resolve_base
from fedllm.secure.identity import load_identity
from fedllm.secure.sealing import unseal
from fedllm.stack.programs import root_credentials

SITES = ("heron", "otter", "stoat")
SICK = "stoat"  # its records do not fit the task: its failure must not quote them
RECORDS = 12
CONFIG = "leaks"


@dataclass(frozen=True)
class Planted:
    """A string that was put where only its site may have it."""

    site: str
    what: str
    data: bytes


@dataclass(frozen=True)
class Played:
    """A run that is over, and what was planted in it."""

    folder: Path
    planted: list[Planted]
    output: bytes  # of the coordinator's terminal
    endpoints: Endpoints


def records(site: str) -> list[dict[str, str]]:
    """Records that share no text with any other: 12 rare letters each, an id, a field beside the task's."""
    made = []
    for number in range(RECORDS):
        label = "positive" if number % 2 else "negative"
        if site == SICK:
            label = f"gloomy{secrets.token_hex(6)}"
        made.append(
            {
                "id": f"patient-{secrets.token_hex(6)}",
                "text": f"{secrets.token_hex(6)} came in with {secrets.token_hex(6)}",
                "label": label,
                "ward": f"ward-{secrets.token_hex(6)}",
            }
        )
    return made


def plant(site: str, home: Path, data: Path) -> Iterator[Planted]:
    """What to look for afterwards."""
    tokenizer = load_base(resolve_base("tiny"))[1]
    for record in (json.loads(line) for line in data.read_text().splitlines()):
        for word in record["text"].replace(" came in with ", " ").split():
            yield Planted(site, "text", word.encode())
        for name in ("id", "ward"):
            yield Planted(site, name, record[name].encode())
        if record["label"].startswith("gloomy"):
            yield Planted(site, "label", record["label"].encode())
        ids = tokenizer(record["text"], add_special_tokens=False).input_ids[:12]
        yield Planted(site, "token ids", ", ".join(map(str, ids)).encode())
        yield Planted(site, "token ids", ",".join(map(str, ids)).encode())
        for kind in "iqH":
            yield Planted(site, f"token ids as {kind}", struct.pack(f"<{len(ids)}{kind}", *ids))
    yield Planted(site, "path", str(data.parent).encode())
    yield Planted(site, "path", str(home).encode())
    pem = (home / "keys" / "sign.key").read_text().splitlines()[1]
    yield Planted(site, "signing key", pem.encode())
    yield Planted(site, "age key", (home / "keys" / "age.key").read_bytes().strip())
    member = accept_invitation(home / "invitation", home)
    yield Planted(site, "store secret", (member.invitation.secret_key or "").encode())


@pytest.fixture(scope="module")
def played(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Three sites, each with its own home and agent; one of them fails on a record of its own."""
    folder = tmp_path_factory.mktemp("leaks")
    public = folder / "public.jsonl"
    texts = {"positive": "a lovely day", "negative": "an awful day"}
    public.write_text(
        "".join(json.dumps({"text": text, "label": label}) + "\n" for label, text in texts.items())
    )
    config = {
        "name": CONFIG,
        "model": {"base": "tiny"},
        "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "Text: {text}\n"},
        "evaluation": {"public": str(public)},
        "rounds": {"max": 2, "deadline": "15m", "join": "10m", "patience": None},
        "local": {"lr": 0.01, "steps": 2, "batch_size": 4},
    }
    file = folder / "federation.yaml"
    file.write_text(yaml.safe_dump(config))
    agents, planted = [], []
    try:
        for site in SITES:
            home, data = folder / f"home-{secrets.token_hex(4)}", folder / f"archive-{secrets.token_hex(4)}"
            data.mkdir()
            (data / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records(site)))
            invitation = home / "invitation"
            card = init_site(site, data / "records.jsonl", home, base="tiny")
            invitation.write_bytes(add_site(load_federation(file), read_card(card)))
            planted += plant(site, home, data / "records.jsonl")
            command = [sys.executable, "-m", "fedllm", "agent", "--home", str(home)]
            command += ["--invitation", str(invitation), "--log", str(home / "agent.log")]
            env = os.environ | {"FEDLLM_HOME": str(home / "fedllm")}
            with (home / "agent.err").open("wb") as errors:
                agents.append(subprocess.Popen(command, env=env, stderr=errors))
        done = fedllm("run", str(file), "--json")
    finally:
        end(agents)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rounds"] == 2
    assert told["sites"][SICK]["rounds"] == 0  # it failed, and the others went on
    assert told["sites"]["heron"]["rounds"] == 2
    time.sleep(3)  # Prefect writes its log in batches
    return Played(folder, planted, (done.stdout + done.stderr).encode(), stack)


def objects(endpoints: Endpoints, bucket: str) -> Iterator[tuple[str, bytes]]:
    """Every object of a bucket, as root sees it."""
    keys = root_credentials(StackPaths(endpoints.home))
    store = MinioStore(
        endpoints.minio_url,
        bucket,
        access_key=keys[0],
        secret_key=keys[1],
        ca=endpoints.ca,
    )
    for there in store.list(""):
        yield f"{bucket}/{there.key}", there.key.encode() + b"\n" + store.get(there.key, limit=10**9)


def outside(played: Played) -> Iterator[tuple[str, bytes]]:
    """Whatever is kept or said anywhere but at the sites."""
    yield "terminal", played.output
    home = played.endpoints.home
    coordinator = load_identity(home / "coordinator" / CONFIG / "keys")
    for bucket in (played.endpoints.bucket, "mlflow"):
        for name, data in objects(played.endpoints, bucket):
            yield name, data
            if name.startswith(f"{played.endpoints.bucket}/{CONFIG}/coordinator/") and "/models/" in name:
                yield f"{name}, opened", unseal(data.partition(b"\n")[2], coordinator)
    for path in sorted(
        home.rglob("*")
    ):  # journal, Prefect's and MLflow's databases, logs, MinIO's own blocks
        if path.is_file() and "simulated" not in path.parts:
            yield str(path.relative_to(home)), path.read_bytes()


def leaks(planted: list[Planted], places: Iterator[tuple[str, bytes]]) -> list[str]:
    """Where something planted is found: site, kind and place.

    S3 signatures rest on a secret that the store knows as well: MinIO keeps its users' secrets in its own
    folder, and there alone one may be.
    """
    return [
        f"{one.what} of {one.site} in {name}"
        for name, data in places
        for one in planted
        if one.data in data and not (one.what == "store secret" and name.startswith("stack/minio/blocks"))
    ]


def test_nothing_of_a_site_is_found_anywhere_else(played: Played) -> None:
    assert len({one.what for one in played.planted}) == 12
    places = dict(outside(played))
    for part in ("terminal", "journal.db", "prefect.db", "mlflow.db", "prefect.log", "/models/"):
        assert any(part in name for name in places), f"{part} was not searched: {sorted(places)[:40]}"
    assert leaks(played.planted, iter(places.items())) == []


def test_the_search_finds_what_is_there(played: Played) -> None:
    """The public texts and names are in the databases and in the store, so what is not found is not there."""
    control = [
        Planted("coordinator", "federation", CONFIG.encode()),
        Planted("coordinator", "site name", b"heron"),
        Planted("coordinator", "label word", b" positive"),
    ]
    found = leaks(control, outside(played))
    for place in ("journal.db", "prefect", "mlflow.db", "plan.json"):
        assert any(place in line for line in found), (place, found[:20])


def test_the_failed_sites_reason_says_what_to_do_and_quotes_nothing(played: Played) -> None:
    done = fedllm("site", "list", "--config", str(played.folder / "federation.yaml"))
    assert SICK in done.stdout
    assert b"its own log says" in played.output or any(
        b"do not fit the plan" in data for name, data in outside(played) if "journal.db" in name
    )
