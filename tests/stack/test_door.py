"""The door's configuration: what it says, and what is refused before nginx reads it."""

from pathlib import Path

import pytest

from fedllm.errors import ConfigError
from fedllm.stack.door import Door, door_of, main

HERE = Door("127.0.0.1:9000", "http://127.0.0.1:9010")


def test_a_store_that_speaks_tls_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FEDLLM_CA_FILE"):
        Door("127.0.0.1:9000", "https://minio:9010").configuration(tmp_path)
    said = Door("127.0.0.1:9000", "https://minio:9010", store_ca=tmp_path / "ca.crt").configuration(tmp_path)
    assert "proxy_ssl_verify on;" in said
    assert "proxy_ssl_name minio;" in said
    local = Door("127.0.0.1:9000", "https://127.0.0.1:9010", store_ca=tmp_path / "ca.crt")
    assert "proxy_ssl_name localhost;" in local.configuration(tmp_path)  # nginx compares names alone
    assert "proxy_ssl" not in HERE.configuration(tmp_path)


def test_a_certificate_and_its_key_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go together"):
        Door("127.0.0.1:9000", "http://s:1", certificate=tmp_path / "c").configuration(tmp_path)
    said = Door("127.0.0.1:9000", "http://s:1", certificate=tmp_path / "c", key=tmp_path / "k").configuration(
        tmp_path
    )
    assert "listen 127.0.0.1:9000 ssl;" in said


@pytest.mark.parametrize(
    "door",
    [
        Door("127.0.0.1:9000; root /", "http://s:1"),
        Door("127.0.0.1:9000", "http://s:1", bucket="b ucket"),
        Door("127.0.0.1:9000", "http://s:1", bucket="a|b"),
        Door("127.0.0.1:9000", "http://s:1", largest="1g; x"),
        Door("127.0.0.1:9000", "http://s:1;x"),
        Door("127.0.0.1:9000", "s:1"),
        Door("127.0.0.1:9000", "https://s:1", store_ca=Path('/ca" ; x')),
        Door("127.0.0.1:9000", "https://s:1", store_ca=Path("/$home/ca")),
        Door("127.0.0.1:9000", "https://192.0.2.1:9010", store_ca=Path("/ca.crt")),
        Door("127.0.0.1:9000", "http://s:1/path"),
    ],
)
def test_what_nginx_would_read_otherwise_is_refused(door: Door, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the door's"):
        door.configuration(tmp_path)


def test_a_buckets_dot_is_a_dot(tmp_path: Path) -> None:
    said = Door("127.0.0.1:9000", "http://s:1", bucket="a.b").configuration(tmp_path)
    assert r"^PUT /a\.b/" in said


def test_a_door_by_variables(capsys: pytest.CaptureFixture[str]) -> None:
    found = door_of({"FEDLLM_STORE_ENDPOINT": "http://s:1/", "FEDLLM_DOOR_BUCKET": "b"})
    assert (found.store, found.bucket, found.listen) == ("http://s:1", "b", "0.0.0.0:9000")
    assert main({}) == 1
    assert capsys.readouterr().err.startswith("door: FEDLLM_STORE_ENDPOINT is not set")
