"""An engine's work without an engine: each service of compose.yaml as a process in a sandbox of its own.

As under Docker: the command, the environment, the user's id, the configs, secrets, volumes and tmpfs that the
file names, at the very paths that it names; a root file system that is read-only and all else of the machine
out of sight; the names of the services on a network that nothing else shares (one for all, where Docker has
two). Not as under Docker: the images. fedllm's is this environment, with the Dockerfile's variables; Postgres
is the machine's, started as the image's script would; MinIO is `juicefs gateway`.
"""

import re
import shlex
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedllm.stack.minio import minio_commands

ROOT = Path(__file__).parents[2]
PATIENCE = 1200.0  # s until a service must be healthy, or a job at its end
POSTGRES = """set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA" && chmod 700 "$PGDATA"
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  export PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
  shift
  pg_ctl --wait --options="$* --listen-addresses=" start
  for script in /docker-entrypoint-initdb.d/*; do "$script"; done
  pg_ctl --wait --mode=fast stop
  unset PGPASSWORD
  set -- postgres "$@"
fi
exec "$@"
"""
# The store's files of TLS stand where `juicefs gateway` looks for them, below its HOME.
GATEWAY = """set -eu
mkdir -p /tmp/.minio/certs
cp /run/tls/public.crt /run/tls/private.key /tmp/.minio/certs/
export HOME=/tmp MINIO_ROOT_PASSWORD="$(cat "$MINIO_ROOT_PASSWORD_FILE")"
{form}
exec {gateway}
"""


class Services:
    """The services, for `with`."""

    def __init__(
        self, composed: dict[str, Any], tools: dict[str, str], ground: Path, names: list[str]
    ) -> None:
        self.composed, self.tools, self.ground = composed, tools, ground
        self.network = f"compose-{uuid.uuid4().hex[:8]}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        image = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8").partition("AS runtime")[2]
        self.image = dict(re.findall(r"([A-Z_]+)=(\S+)", image.partition("ENV ")[2].partition("\nCOPY")[0]))
        (ground / "hosts").write_text("127.0.0.1 localhost " + " ".join(names) + "\n")
        (ground / "passwd").write_text("someone:x:1000:1000::/tmp:/bin/sh\n")

    def __enter__(self) -> Self:
        subprocess.run([self.tools["ip"], "netns", "add", self.network], check=True)
        self._in_network("ip", "link", "set", "lo", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed([*self.running]):
            self.stop(name)
        subprocess.run([self.tools["ip"], "netns", "delete", self.network], check=True)

    def up(self, *names: str) -> None:
        """Run jobs to their ends; start servers, and wait until their health checks say that they are up."""
        for name in names:
            service = self.composed["services"][name]
            for needed, how in service.get("depends_on", {}).items():
                if how["condition"] == "service_healthy":
                    assert needed in self.running, f"{name} before {needed}"
            if "healthcheck" in service:
                self._start(name, service)
            else:
                done = self.run(name)
                assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        for name in names:
            if name in self.running:
                self.until_healthy(name)

    def _start(self, name: str, service: dict[str, Any]) -> None:
        with (self.ground / f"{name}.log").open("ab") as log:
            command = self.sandbox(name, self._played(name, self._command(service)))
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def until_healthy(self, name: str) -> None:
        """Wait until a server's own check says so."""
        deadline = time.monotonic() + PATIENCE
        while self.health(name).returncode != 0:
            gone = self.running[name].poll()
            assert gone is None, f"{name} ended with {gone}: {self.log(name)[-2000:]}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)[-2000:]}"
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        """Stop a server by its own process id; its sandbox takes its children along."""
        process = self.running.pop(name)
        process.terminate()
        process.wait(120)

    def log(self, name: str) -> str:
        """What a server has said."""
        return (self.ground / f"{name}.log").read_text(errors="replace")

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Ask a service's health check once; as Docker runs it, without what `entry` exports."""
        kind, *test = self.composed["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self._said(self.sandbox(name, test))

    def run(self, name: str, *command: str, entry: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a service's command, or another in its place, to its end."""
        service = self.composed["services"][name]
        asked = [*command] if command else self._command(service)[1:] if entry else self._command(service)
        return self._said(self.sandbox(name, ["entry", *asked] if entry else asked))

    def sandbox(self, name: str, command: list[str]) -> list[str]:
        """The command line that runs a command where and as a service would run it."""
        service = self.composed["services"][name]
        uid, _, gid = service["user"].partition(":")
        view = ["--tmpfs", "/", "--proc", "/proc", "--dev", "/dev"]
        for path in (
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib64",
            "/etc",
            str(ROOT),
            sys.prefix,
            sys.base_prefix,
        ):
            kind = "--symlink" if Path(path).is_symlink() else "--ro-bind"
            view += [kind, str(Path(path).readlink()) if kind == "--symlink" else path, path]
        view += ["--ro-bind", str(self.ground / "hosts"), "/etc/hosts"]
        view += ["--ro-bind", str(self.ground / "passwd"), "/etc/passwd", "--symlink", "/run", "/var/run"]
        for program in ("entry.sh", "healthy.py"):
            source = ROOT / "infra" / "compose" / program
            view += ["--ro-bind", str(source), f"/opt/fedllm/bin/{source.stem}"]
        for mount in service.get("tmpfs", ()):
            view += ["--tmpfs", mount.partition(":")[0].replace("/var/run", "/run")]
        for kind in ("configs", "secrets"):
            for used in service.get(kind, ()):
                view += ["--ro-bind", self.composed[kind][used["source"]]["file"], used["target"]]
        for volume in service.get("volumes", ()):
            source = Path(volume["source"])
            if volume["type"] == "volume":
                source = self.ground / "volumes" / volume["source"]
                source.mkdir(parents=True, exist_ok=True)
            view += ["--ro-bind" if volume.get("read_only") else "--bind", str(source), volume["target"]]
        view += ["--remount-ro", "/"] if service["read_only"] else []
        return [
            *(self.tools["ip"], "netns", "exec", self.network, self.tools["bwrap"]),
            *(
                "--unshare-user",
                "--uid",
                uid,
                "--gid",
                gid,
                "--unshare-pid",
                "--unshare-ipc",
                "--unshare-uts",
            ),
            *("--die-with-parent", "--clearenv", *view, "--chdir", service.get("working_dir", "/tmp")),  # noqa: S108 - inside the sandbox
            *(part for pair in self._environment(name).items() for part in ("--setenv", *pair)),
            *("--", *command),
        ]

    def outside(self, folder: Path, *command: str) -> list[str]:
        """The command line of `fedllm …` at a site, which has a folder and knows the store's name."""
        view = [
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",  # noqa: S108 - inside the sandbox
            "--tmpfs",
            "/srv",
        ]
        view += ["--ro-bind", str(ROOT), str(ROOT), "--ro-bind", str(self.ground / "hosts"), "/etc/hosts"]
        return [
            *(self.tools["ip"], "netns", "exec", self.network, self.tools["bwrap"]),
            *("--unshare-pid", "--die-with-parent", *view, "--bind", str(folder), "/srv", "--chdir", "/srv"),
            *("--setenv", "FEDLLM_HOME", "/srv/home", "--setenv", "OMP_NUM_THREADS", "1"),
            *("--", str(Path(sys.executable).parent / "fedllm"), *command),
        ]

    def _environment(self, name: str) -> dict[str, str]:
        service = self.composed["services"][name]
        ours = self.image if service["image"].startswith("fedllm:") else {}
        found = {**ours, **{key: str(value) for key, value in service.get("environment", {}).items()}}
        folders = [Path(sys.executable).parent, Path(self.tools["initdb"]).resolve().parent]
        found["PATH"] = ":".join(["/opt/fedllm/bin", *map(str, folders), "/usr/bin:/bin"])
        return found

    def _command(self, service: dict[str, Any]) -> list[str]:
        ours = ["entry"] if service["image"].startswith("fedllm:") else []
        return [*(service.get("entrypoint") or ours), *(service.get("command") or ())]

    def _played(self, name: str, command: list[str]) -> list[str]:
        """What stands in for an image that is not here."""
        if name == "postgres":
            return ["sh", "-c", POSTGRES, "docker-entrypoint", *command]
        if name == "minio":
            assert command[:2] == ["/usr/bin/silo", "server"]
            form, gateway = map(shlex.join, minio_commands(Path("/data"), 9010, Path("/tmp/gateway.log")))  # noqa: S108 - inside the sandbox
            return ["sh", "-c", GATEWAY.replace("{form}", form).replace("{gateway}", gateway)]
        return command

    def _said(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )

    def _in_network(self, *command: str) -> None:
        subprocess.run([self.tools["ip"], "netns", "exec", self.network, *command], check=True)
