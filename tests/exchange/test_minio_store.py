"""What is the MinIO store's own: time-outs, retries, names for failures."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedllm.errors import AccessDeniedError, ConfigError, ExchangeError, RefusedError
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer, free_port

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


class Scripted(BaseHTTPRequestHandler):
    """A real server that answers as told: (status, declared length or None, body), the last one for ever."""

    script: list[tuple[int, int | None, bytes]]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, length, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if status >= 400 else "binary/octet-stream")
        self.send_header("ETag", '"e"')
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _scripted(*script: tuple[int, int | None, bytes]) -> Iterator[tuple[MinioStore, list[str]]]:
    class Handler(Scripted):
        pass

    Handler.script, Handler.asked = list(script), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield MinioStore(endpoint, "bucket", access_key="a", secret_key="b"), Handler.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_busy_server_is_asked_again(status: int) -> None:
    with _scripted((status, len(SLOW_DOWN), SLOW_DOWN), (200, 2, b"ok")) as (store, asked):
        assert store.get("fed/a", limit=9) == b"ok"
    assert len(asked) == 2


def test_an_answer_cut_short_is_asked_for_again() -> None:
    with _scripted((200, 10, b"half"), (200, 10, b"wholewhole")) as (store, asked):
        assert store.get("fed/a", limit=10) == b"wholewhole"
    assert len(asked) == 2


def test_a_refusal_is_not_asked_again() -> None:
    with _scripted((403, len(DENIED), DENIED)) as (store, asked):
        with pytest.raises(AccessDeniedError, match="fed/a"):
            store.get("fed/a", limit=9)
        assert len(asked) == 1


def test_the_limit_holds_whatever_length_is_promised(tmp_path: Path) -> None:
    with _scripted((200, None, b"x" * 3_000_000)) as (store, asked):
        with pytest.raises(RefusedError, match="larger than 1000 bytes"):
            store.get("fed/a", limit=1000)
        with pytest.raises(RefusedError, match="larger than 1000 bytes"):
            store.get_file("fed/a", tmp_path / "a", limit=1000)
        assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_never_there_is_given_up_in_time() -> None:
    store = MinioStore(
        f"http://127.0.0.1:{free_port()}", "bucket", access_key="a", secret_key="b", attempts=2
    )
    start = time.monotonic()
    with pytest.raises(ExchangeError, match="does not answer"):
        store.get("fed/a", limit=9)
    assert time.monotonic() - start < 5


def test_a_server_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedllm.exchange.minio_store.READ", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = MinioStore(endpoint, "bucket", access_key="a", secret_key="b", attempts=1)
        start = time.monotonic()
        with pytest.raises(ExchangeError, match="does not answer"):
            store.get("fed/a", limit=9)
        assert time.monotonic() - start < 5


def test_wrong_keys_are_a_refusal(minio_server: MinioServer, bucket: str) -> None:
    for keys in (("nobody", "nothing-here"), (minio_server.access_key, "wrong-secret")):
        store = MinioStore(minio_server.endpoint, bucket, access_key=keys[0], secret_key=keys[1])
        with pytest.raises(AccessDeniedError):
            store.put("fed/a", b"")


def test_an_absent_bucket_is_said_so(minio_server: MinioServer) -> None:
    keys = (minio_server.access_key, minio_server.secret_key)
    store = MinioStore(minio_server.endpoint, "no-such-bucket", access_key=keys[0], secret_key=keys[1])
    with pytest.raises(ExchangeError, match="no bucket 'no-such-bucket'"):
        store.put("fed/a", b"")


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "ftp://x", "http://", "http://h/path", "http://u:p@h"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        MinioStore(endpoint, "bucket", access_key="a", secret_key="b")


def test_no_secret_is_printed() -> None:
    store = MinioStore("http://127.0.0.1:9000", "bucket", access_key="a", secret_key="hidden-one")
    assert repr(store) == "MinioStore('http://127.0.0.1:9000', 'bucket')"


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
)
def test_no_test_reaches_another_machine(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as outward, pytest.raises(OSError, match="may not connect"):
        outward.connect((host, 9))
