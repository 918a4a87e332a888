"""Several machines made of one: each with its own network, processes, files and user."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from page_blocks import ROOT
from page_shell import BIN, Shell

OWN = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
HERE = Path(__file__).parent
STORE = "store.example"
SYSTEM = {"/usr", "/opt", "/lib", "/etc", "/var"}  # folders that a machine keeps as they are
FIRST_UID = 61_001  # of no account here; the machines' own passwd files name them


def why_not() -> str | None:
    """Why this user cannot make machines on this system; None when it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces and other users need root on Linux"
    if missing := [name for name in ("ip", "unshare", "setpriv", "mount") if shutil.which(name) is None]:
        return f"{', '.join(missing)} not found: install iproute2 and util-linux"
    tried = _done("unshare", "--net", "--mount", "--pid", "--fork", "true")
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


@dataclass
class Machine:
    """One of them: who works on it, and its address on the network between them."""

    name: str
    uid: int
    address: str
    disk: Path  # its user's home, as this test sees it
    network: str
    shell: Shell = field(init=False)

    def enter(self, *command: str) -> list[str]:
        """A command line that runs in this machine's network, as its user, with the test's view of files."""
        user = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups"]
        return ["ip", "netns", "exec", self.network, *user, *command]


class Machines:
    """The machines of a page, for `with`: the first is the store's host, and the others reach it alone."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.all = {
            name: Machine(
                name,
                FIRST_UID + i,
                address=f"10.77.0.{i + 1}",
                disk=folder / name,
                network=f"fedllm-{os.getpid()}-{name}",
            )
            for i, name in enumerate(names)
        }

    def __getitem__(self, name: str) -> Machine:
        return self.all[name]

    def __enter__(self) -> Self:
        try:
            self._network()
            for machine in self.all.values():
                self._start(machine)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def send(self, source: str, target: str) -> None:
        """Copy MACHINE:FILE to MACHINE:FILE, below their users' homes: what people send each other."""
        (from_name, from_file), (to_name, to_file) = source.split(":"), target.split(":")
        arrived = self[to_name].disk / to_file
        shutil.copyfile(self[from_name].disk / from_file, arrived)
        os.chown(arrived, self[to_name].uid, self[to_name].uid)

    def tell(self, source: str, target: str) -> None:
        """Set at a machine the shell variable that MACHINE:NAME has: what people read out to each other."""
        machine, variable = source.split(":")
        value = self[machine].shell.type(f'echo "${variable}"', f"{source} told").strip()
        assert value, f"{source} is not set"
        self[target].shell.type(f"{variable}={value}", f"{source} heard")

    def _network(self) -> None:
        """A switch at the first machine; nothing of it is in the network of the test."""
        host, *others = self.all.values()
        for machine in self.all.values():
            _run("ip", "netns", "add", machine.network)
            _run("ip", "-n", machine.network, "link", "set", "lo", "up")
        _run("ip", "-n", host.network, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", host.network, "addr", "add", f"{host.address}/24", "dev", "switch")
        _run("ip", "-n", host.network, "link", "set", "switch", "up")
        for i, machine in enumerate(others):
            peer = ("peer", "name", "eth0", "netns", machine.network)
            _run("ip", "-n", host.network, "link", "add", f"port{i}", "type", "veth", *peer)
            _run("ip", "-n", host.network, "link", "set", f"port{i}", "master", "switch", "up")
            _run("ip", "-n", machine.network, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            _run("ip", "-n", machine.network, "link", "set", "eth0", "up")

    def _start(self, machine: Machine) -> None:
        machine.disk.mkdir(mode=0o700)
        os.chown(machine.disk, machine.uid, machine.uid)
        own = [f"{machine.name}-{what}" for what in ("hosts", "passwd", "notes", "stage")]
        hosts, passwd, notes, stage = (self.folder / name for name in own)
        hosts.write_text(f"127.0.0.1 localhost\n{self._host.address} {STORE}\n")
        home = f"/home/{machine.name}"
        user = f"{machine.name}:x:{machine.uid}:{machine.uid}::{home}:/bin/bash"
        passwd.write_text(f"root:x:0:0::/root:/bin/sh\n{user}\n")
        stage.mkdir()
        notes.mkdir()
        os.chown(notes, machine.uid, machine.uid)
        installed = _installed()
        covered = {f"/{path.parts[1]}" for path in [*installed, notes]} - SYSTEM
        view = ["bash", str(HERE / "machine.sh"), str(stage), str(machine.disk), home, str(machine.uid)]
        machine.shell = Shell(
            Path("/"),
            os.environ
            | {
                "COVER": " ".join(sorted(covered)),
                "SHARED": " ".join(map(str, [*installed, notes])),
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "TESTS": str(HERE),
                "PYTHONPATH": str(ROOT),
            },
            [*("ip", "netns", "exec", machine.network), *OWN, *view, str(hosts), str(passwd)],
            notes,
        )

    @property
    def _host(self) -> Machine:
        return next(iter(self.all.values()))

    def _end(self) -> None:
        started = [machine.shell for machine in self.all.values() if hasattr(machine, "shell")]
        with (
            ThreadPoolExecutor() as pool
        ):  # a machine's first process hears no gentle signal: each takes a while
            list(pool.map(Shell.close, started))
        for machine in self.all.values():
            _done("ip", "netns", "delete", machine.network)


def _installed() -> list[Path]:
    """What every machine has, read by all: this package, its environment, its Python."""
    wanted = {ROOT, Path(sys.prefix), Path(sys.base_prefix)}
    return sorted(path for path in wanted if not any(path.is_relative_to(other) for other in wanted - {path}))


def _run(*command: str) -> None:
    done = _done(*command)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _done(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
