"""Certificates: a good one is believed, every other is refused by every client, with one clear line."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, ExchangeError, FedllmError
from fedllm.exchange.connect import connect
from fedllm.exchange.iam import MinioIam
from fedllm.exchange.minio_store import MinioStore
from fedllm.secure import ca as authority
from fedllm.secure.ca import ServerCertificate, server_certificate
from fedllm.stack.health import answers, response_date
from fedllm.stack.minio import MinioServer, ensure_bucket
from fedllm.tracking.connection import probe


class Quiet(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - one list for all, on purpose

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listener(certificate: ServerCertificate | None) -> Iterator[int]:
    """A server on loopback that shows a certificate, or speaks in the clear."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes are the point
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, where the trusted authority is."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "FEDLLM_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = server_certificate(tmp_path / "home" / "ca")
    for path in (made.certificate, made.key):  # the authority stays: each test has it issue its own
        path.unlink()
    return tmp_path / "home"


Faulty = Callable[[], ServerCertificate | None]


@pytest.fixture(params=["from another CA", "expired", "for another host", "no TLS at all"])
def faulty(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ServerCertificate | None, str]:
    """A certificate that must not be believed, and what is to be said of it."""
    if request.param == "from another CA":
        return server_certificate(tmp_path / "other"), "not from a CA that is trusted here"
    if request.param == "expired":
        monkeypatch.setattr(authority, "SERVER_LIFE", timedelta(minutes=-30))
        return server_certificate(home / "ca"), "has expired"
    if request.param == "for another host":
        monkeypatch.setattr(authority, "LOOPBACK", ("minio.example",))
        return server_certificate(home / "ca"), "is for another host"
    return None, "does not speak TLS"


def store(url: str, ca: str) -> None:
    MinioStore(url, "bucket", access_key="a", secret_key="b", ca=ca).put("site/update.bin", b"private")


def clock(url: str, ca: str) -> None:
    MinioStore(url, "bucket", access_key="a", secret_key="b", ca=ca).now()


def users(url: str, ca: str) -> None:
    MinioIam(url, "a", "b", "bucket", ca=ca).add_site("fed", "movies")


def bucket(url: str, ca: str) -> None:
    ensure_bucket(url, "bucket", "a", "b", ca=ca)


def health(url: str, ca: str) -> None:
    assert ca
    answers(f"{url}/minio/health/live")


def date(url: str, ca: str) -> None:
    assert ca
    response_date(url)


def mlflow(url: str, ca: str) -> None:
    assert ca
    probe(url)


@pytest.mark.parametrize("client", [store, clock, users, bucket, health, date, mlflow])
def test_a_certificate_that_is_not_to_be_believed_is_refused_in_one_line_before_a_word_is_said(
    client: Callable[[str, str], None],
    faulty: tuple[ServerCertificate | None, str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, why = faulty
    trusted = home / "ca" / "ca.crt"
    monkeypatch.setenv("FEDLLM_CA_FILE", str(trusted))
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
    with listener(certificate) as port:
        Quiet.asked.clear()
        with pytest.raises(FedllmError, match=why) as refusal:
            client(f"https://127.0.0.1:{port}", trusted.read_text())
        assert Quiet.asked == []
    assert "\n" not in str(refusal.value)
    assert f"https://127.0.0.1:{port}" in str(refusal.value)


def test_the_stacks_own_servers_are_believed_by_the_private_ca_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user's variables name does not count for them."""
    place = StackPaths(home)
    place.create()
    monkeypatch.setenv("FEDLLM_CA_FILE", str(server_certificate(tmp_path / "other").ca))
    for folder, believed in ((home / "ca", True), (tmp_path / "other", False)):
        with listener(server_certificate(folder)) as port:
            StackState(ports={"mlflow": port}, secure=True).save(place)
            if believed:
                assert answers(f"https://127.0.0.1:{port}/health")
            else:
                with pytest.raises(FedllmError, match="not from a CA"):
                    answers(f"https://127.0.0.1:{port}/health")


@pytest.mark.servers
def test_a_real_server_is_entered_by_its_ca_and_by_nothing_else(home: Path, tmp_path: Path) -> None:
    certificate = server_certificate(home / "ca")
    trusted, other = certificate.ca.read_text(), server_certificate(tmp_path / "other").ca.read_text()
    with MinioServer(tmp_path / "minio", certificate=certificate) as server:
        keys = (server.access_key, server.secret_key)
        ensure_bucket(server.endpoint, "bucket", *keys, ca=trusted)
        entered = connect("s3://bucket", server.endpoint, "us-east-1", *keys, trusted)
        entered.put("a/b", b"bytes")
        assert entered.get("a/b", limit=10) == b"bytes"
        assert (
            MinioIam(server.endpoint, *keys, "bucket", ca=trusted).add_site("fed", "movies")[0]
            == "fed.movies"
        )
        for ca in (other, None):
            with pytest.raises(ExchangeError, match="not from a CA that is trusted here"):
                connect("s3://bucket", server.endpoint, "us-east-1", *keys, ca).get("a/b", limit=10)
        plain = server.endpoint.replace("https", "http")
        with pytest.raises(ExchangeError):
            MinioStore(plain, "bucket", access_key=keys[0], secret_key=keys[1]).get("a/b", limit=10)
        # One connection's authority is no other's: this one still fails after the others went through.
        with pytest.raises(ExchangeError, match="not from a CA"):
            MinioIam(server.endpoint, *keys, "bucket").remove_site("fed", "movies")


def test_a_ca_beside_an_endpoint_in_the_clear_is_refused(home: Path) -> None:
    trusted = (home / "ca" / "ca.crt").read_text()
    with pytest.raises(ConfigError, match="https://"):
        MinioStore("http://127.0.0.1:9000", "bucket", access_key="a", secret_key="b", ca=trusted)
    with pytest.raises(ConfigError, match="https://"):
        MinioIam("http://127.0.0.1:9000", "a", "b", "bucket", ca=trusted)


def test_a_ca_that_is_none_is_refused_when_the_store_is_opened() -> None:
    with pytest.raises(ConfigError, match="PEM"):
        MinioStore("https://127.0.0.1:9000", "bucket", access_key="a", secret_key="b", ca="no certificate")
