"""What the doctor says of a machine on which something is wrong."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from importlib import metadata
from pathlib import Path
from time import time

import pytest

from fedllm.doctor import machine
from fedllm.doctor.finding import Finding, tried
from fedllm.doctor.servers import mlflow_version, prefect_version
from fedllm.models.base import resolve_base
from fedllm.models.folder import fingerprint
from fedllm.stack.health import PrefectApi

Serve = Callable[[str, float], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that gives one answer, by a clock that is so many seconds off; returns its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(body: str, seconds: float = 0.0) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(200)
                self.send_header("Date", formatdate(time() + seconds, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cached base `tiny`, of the test's own, with its fingerprint kept."""
    monkeypatch.setenv("FEDLLM_CACHE", str(tmp_path / "cache"))
    folder = resolve_base("tiny")
    fingerprint(folder)
    return folder


def only(found: Iterator[Finding]) -> Finding:
    (finding,) = found
    return finding


def test_a_dependency_out_of_its_bounds_and_a_missing_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["numpy<0.1", "no-such-package>=1", "pytest; extra == 'x'"]
    )
    found = only(machine.packages())
    assert found.status == "fail"
    assert "numpy" in found.detail
    assert "no-such-package is missing" in found.detail
    assert "constraints.txt" in found.remedy


def test_a_disk_with_less_room_than_a_training_needs_says_which_variable_moves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "not there yet"))
    assert [finding.status for finding in machine.disks()] == ["ok"] * 3
    monkeypatch.setattr(machine, "_ROOM", dict.fromkeys(machine._ROOM, 1e9))
    found = list(machine.disks())
    assert [finding.status for finding in found] == ["fail"] * 3
    for finding, variable in zip(found, ("FEDLLM_HOME", "FEDLLM_CACHE", "TMPDIR"), strict=True):
        assert variable in finding.remedy
    assert str(tmp_path) in found[0].detail
    assert not (tmp_path / "not there yet").exists()


def test_a_base_model_with_one_wrong_byte_is_found_whatever_its_size_and_time_say(cached: Path) -> None:
    assert "matches its fingerprint" in only(machine.base_model("tiny")).detail
    weights = cached / "model.safetensors"
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = only(machine.base_model("tiny"))
    assert (found.status, str(cached) in found.detail) == ("fail", True)
    assert f"rm -r {cached}" in found.remedy


def test_a_base_model_that_nobody_used_yet_is_no_fault(cached: Path, tmp_path: Path) -> None:
    for name in ("smollm2-135m", "owner/no-such-model@main"):
        found = only(machine.base_model(name))
        assert (found.status, "not cached yet" in found.detail) == ("ok", True)
    for kept in (tmp_path / "cache" / "fingerprints").iterdir():
        kept.unlink()
    assert "not used yet" in only(machine.base_model("tiny")).detail
    assert "not used yet" in only(machine.base_model(str(cached))).detail


def test_a_base_model_that_is_named_by_where_it_was_and_is_gone_fails(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cached
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "gone"), str(tmp_path / "no.gguf"), "./gone", "~/gone", "gone.gguf"):
        (found,) = tried("model cache", "", lambda name=name: machine.base_model(name))
        assert (found.status, "does not exist" in found.detail) == ("fail", True), found


def test_a_clock_that_is_wrong_is_told_with_how_much(serve: Serve) -> None:
    assert only(machine.clock(serve("", 0.0))).status == "ok"
    found = only(machine.clock(serve("", -3600.0)))
    assert (found.status, round(int(found.detail.split()[0]), -2)) == ("fail", 3600)
    assert "NTP" in found.remedy


def test_a_store_that_is_away_has_no_clock() -> None:
    assert only(machine.clock("http://127.0.0.1:1")).detail == "http://127.0.0.1:1 does not answer"


def test_servers_of_another_version_are_told_with_the_command_that_helps(serve: Serve) -> None:
    prefect = only(prefect_version(PrefectApi(serve('"3.1.0"', 0.0))))
    assert (prefect.status, prefect.remedy) == ("fail", "pip install prefect==3.1.0")
    mlflow = only(mlflow_version(serve("2.9.2", 0.0)))
    assert mlflow.detail == f"server 2.9.2, here {metadata.version('mlflow')}"
    assert mlflow.remedy == "pip install mlflow==2.9.2"


def test_a_check_that_breaks_is_a_finding_and_keeps_what_it_found_before() -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("first", "ok", "well")
        raise KeyError("second")

    found = tried("both", "look", broken)
    assert [(f.name, f.status) for f in found] == [("first", "ok"), ("both", "fail")]
    assert "KeyError" in found[1].detail
