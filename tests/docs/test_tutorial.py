"""The tutorial, typed on three machines that share an installation and the way to the store's door alone."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from machines import STORE, Machine, Machines, why_not
from page_blocks import ROOT, Step, steps

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow("three machines, each with its own processes"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(3600),
]

PAGE = ROOT / "docs" / "tutorial.md"
SITES = ["harbour", "clinic"]
PREFECT, MLFLOW = 4200, 5000
PROBE = """
import json, socket, sys
found = {}
for port in json.loads(sys.argv[2]):
    with socket.socket() as probe:
        probe.settimeout(2)
        found[port] = probe.connect_ex((sys.argv[1], port)) == 0
print(json.dumps([port for port, open in found.items() if open]))
"""


@pytest.fixture(scope="module")
def played() -> Iterator[tuple[Machines, dict[str, str]]]:
    """The machines before the last block of the page, which stops all, and what each block said."""
    with TemporaryDirectory(prefix="fedllm-machines-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # pytest's own folders are closed to the machines' users
        with Machines(folder, ["coordinator", *SITES]) as machines:
            yield machines, dict(play(machines, steps(PAGE)[:-1]))


def play(machines: Machines, page: list[Step]) -> Iterator[tuple[str, str]]:
    """Type the page."""
    at = "coordinator"
    for step in page:
        if step.kind == "at":
            at = step.text
        elif step.kind == "send":
            machines.send(*step.text.split())
        elif step.kind == "tell":
            machines.tell(*step.text.split())
        elif step.kind != "not run":
            yield step.text, machines[at].shell.run(step)


def listening(machine: Machine) -> set[tuple[str, int]]:
    """Addresses and ports on which programs of a machine listen; IPv6 as the kernel writes it."""
    look = machine.enter("cat", "/proc/net/tcp", "/proc/net/tcp6")
    shown = subprocess.run(look, capture_output=True, text=True, check=True)
    found = set()
    for line in shown.stdout.splitlines():
        _, local, _, state, *_ = line.split()
        if state == "0A":
            address, port = local.split(":")
            four = ".".join(str(byte) for byte in reversed(bytes.fromhex(address)))
            found.add((four if len(address) == 8 else address, int(port, 16)))
    return found


def reached(machine: Machine, address: str, ports: list[int]) -> list[int]:
    """Which of these ports a machine can connect to."""
    command = f"python -c '{PROBE}' {address} '{json.dumps(ports)}'"
    ports_reached: list[int] = json.loads(machine.shell.type(command, "probe"))
    return ports_reached


def test_the_training_completes_with_both_sites(played: tuple[Machines, dict[str, str]]) -> None:
    machines, said = played
    trained = next(text for commands, text in said.items() if "fedllm run federation.yaml\n" in commands)
    assert re.search(r"run \S+: completed, \S.*\n\s*[23] rounds in", trained), trained
    assert "no DP configured" in trained
    versions = next(text for commands, text in said.items() if "search_model_versions" in commands)
    assert re.search(r"^\d+ 1 clinic,harbour ", versions, flags=re.MULTILINE), versions
    for site in SITES:
        assert (machines[site].disk / ".fedllm" / "sites" / site / "memory.db").is_file()


def test_of_the_coordinator_the_sites_reach_the_door_alone(
    played: tuple[Machines, dict[str, str]],
) -> None:
    machines, _ = played
    host = machines["coordinator"]
    there = listening(host)
    assert {address for address, _ in there} == {host.address, "127.0.0.1"}
    assert {port for address, port in there if address == host.address} == {9000}
    ports = sorted({port for _, port in there})
    assert {PREFECT, MLFLOW, 9000} <= set(ports)  # and both MinIOs, and the other door
    for site in SITES:
        assert reached(machines[site], host.address, ports) == [9000]
        assert reached(machines[site], "127.0.0.1", ports) == []


def test_nothing_listens_at_a_site(played: tuple[Machines, dict[str, str]]) -> None:
    machines, _ = played
    for site in SITES:
        assert listening(machines[site]) == set()


def test_the_door_speaks_tls_under_the_coordinators_authority_and_nothing_else(
    played: tuple[Machines, dict[str, str]],
) -> None:
    machines, _ = played
    code = (
        "import http.client, ssl, sys\n"
        "def status(made):\n"
        "    made.request('GET', '/health'); return made.getresponse().status\n"
        f"print(status(http.client.HTTPConnection('{STORE}', 9000, timeout=20)))\n"
        f"try: status(http.client.HTTPSConnection('{STORE}', 9000, timeout=20))\n"
        "except ssl.SSLCertVerificationError as error: print(error.verify_message)\n"
    )
    said = machines["clinic"].shell.type(f"python - <<'END'\n{code}END", "plain").splitlines()
    assert said[0] == "400"  # plain HTTP
    assert "self-signed" in said[1] or "unable to get local issuer" in said[1]
    machines.send("coordinator:.fedllm/ca/ca.crt", "clinic:told-ca.crt")
    trusting = (
        "import http.client, ssl\n"
        "told = ssl.create_default_context(cafile='told-ca.crt')\n"
        f"made = http.client.HTTPSConnection('{STORE}', 9000, timeout=20, context=told)\n"
        "made.request('GET', '/health'); print(made.getresponse().status)\n"
    )
    assert machines["clinic"].shell.type(f"python - <<'END'\n{trusting}END", "trusting") == "204\n"


def test_no_party_reads_anothers_files(played: tuple[Machines, dict[str, str]]) -> None:
    machines, _ = played
    for machine in machines.all.values():
        own = machine.shell.type('find "$HOME" -name "*.jsonl" | wc -l; ls /home /root /tmp', "own").split()
        assert int(own[0]) >= 1
        assert {name for name in machines.all if name in own} == {machine.name}
        for other in machines.all.values():
            # Past the machines' walls, on the disk that they share here: the users alone keep them apart.
            look = ["-c", "import os, sys; os.listdir(sys.argv[1])", str(other.disk)]
            listed = subprocess.run(
                machine.enter(sys.executable, *look),
                capture_output=True,
                text=True,
                check=False,
            )
            assert (listed.returncode == 0) == (other is machine), (machine.name, other.name, listed.stderr)


def test_what_a_site_keeps_to_itself_is_readable_by_its_user_alone(
    played: tuple[Machines, dict[str, str]],
) -> None:
    machines, _ = played
    for site in SITES:
        home = machines[site].disk / ".fedllm" / "sites" / site
        wide = [path for path in home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
        assert home.stat().st_mode & 0o077 == 0
        assert [path for path in wide if "keys" in path.parts] == []


def test_the_trainings_store_user_has_neither_roots_nor_the_registrars_rights(
    played: tuple[Machines, dict[str, str]],
) -> None:
    machines, _ = played
    command = "fedllm site add harbour.json --config federation.yaml --out refused.invitation"
    refused = machines["coordinator"].shell.type(f"! {command} 2>&1", "refused")
    assert refused.count("fedllm: ") == 1, refused


def test_the_last_block_stops_the_coordinators_servers(played: tuple[Machines, dict[str, str]]) -> None:
    machines, _ = played
    host = machines["coordinator"]
    assert any(port == PREFECT for _, port in listening(host))
    host.shell.run(steps(PAGE)[-1])
    assert not {port for _, port in listening(host)} & {PREFECT, MLFLOW}
