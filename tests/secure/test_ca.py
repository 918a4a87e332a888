"""The private authority: made once, kept, and its certificates hold what strict clients ask for."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from fedllm.errors import ConfigError, IdentityError
from fedllm.secure import ca as authority
from fedllm.secure.ca import ca_fingerprint, renewal_due, server_certificate, validity
from fedllm.secure.trust import read_ca, refuse_unchecked, trusting


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_an_independent_strict_verifier_believes_the_certificate_for_its_hosts_alone(tmp_path: Path) -> None:
    files = server_certificate(tmp_path, ["minio.example", "10.0.0.7"])
    policy = PolicyBuilder().store(Store([loaded(files.ca)])).time(datetime.now(UTC).replace(tzinfo=None))
    import ipaddress

    for subject in (
        x509.DNSName("localhost"),
        x509.DNSName("minio.example"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("10.0.0.7")),
    ):
        policy.build_server_verifier(subject).verify(loaded(files.certificate), [])
    with pytest.raises(x509.verification.VerificationError):
        policy.build_server_verifier(x509.DNSName("other.example")).verify(loaded(files.certificate), [])


def test_openssl_believes_it_in_its_strict_mode(tmp_path: Path) -> None:
    files = server_certificate(tmp_path)
    client = trusting(read_ca(files.ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (left, right):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert left.version() == "TLSv1.3"


def test_keys_are_their_owners_alone_and_the_ca_can_sign_no_further_ca(tmp_path: Path) -> None:
    files = server_certificate(tmp_path / "ca")
    assert {oct(p.stat().st_mode & 0o777) for p in (files.key, tmp_path / "ca" / "ca.key")} == {"0o600"}
    assert (tmp_path / "ca").stat().st_mode & 0o077 == 0
    basic = loaded(files.ca).extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    assert not loaded(files.certificate).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_running_again_keeps_everything_and_another_host_keeps_the_ca_and_the_hosts(tmp_path: Path) -> None:
    files = server_certificate(tmp_path, ["a.example"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    server_certificate(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    server_certificate(tmp_path, ["B.example."])
    assert validity(files.certificate).hosts == ("127.0.0.1", "localhost", "a.example", "b.example")
    assert files.ca.read_bytes() == before[files.ca]


def test_a_certificate_near_its_end_is_renewed_by_the_same_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(authority, "SERVER_LIFE", timedelta(days=29))
        files = server_certificate(tmp_path, ["a.example"])
    mark = ca_fingerprint(files.ca)
    assert renewal_due(tmp_path)
    server_certificate(tmp_path)
    assert not renewal_due(tmp_path)
    assert validity(files.certificate).left > timedelta(days=360)
    assert "a.example" in validity(files.certificate).hosts
    assert ca_fingerprint(files.ca) == mark
    life = loaded(files.ca).not_valid_after_utc - loaded(files.certificate).not_valid_after_utc
    assert life > timedelta(0), "a certificate must not outlive its authority"


def test_a_making_that_was_cut_off_is_completed(tmp_path: Path) -> None:
    files = server_certificate(tmp_path)
    other = server_certificate(tmp_path / "other")
    files.key.write_bytes(other.key.read_bytes())  # the key was replaced, the certificate was not
    server_certificate(tmp_path)
    key = load_pem_private_key(files.key.read_bytes(), None)
    assert key.public_key() == loaded(files.certificate).public_key()
    files.ca.unlink()
    ca_key = (tmp_path / "ca.key").read_bytes()
    server_certificate(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == ca_key
    loaded(files.certificate).verify_directly_issued_by(loaded(files.ca))


def test_what_does_not_belong_together_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_certificate(tmp_path / "a")
    server_certificate(tmp_path / "b")
    (tmp_path / "a" / "ca.crt").write_bytes((tmp_path / "b" / "ca.crt").read_bytes())
    with pytest.raises(IdentityError, match="belong together"):
        server_certificate(tmp_path / "a")
    (tmp_path / "b" / "ca.key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        server_certificate(tmp_path / "b")
    (tmp_path / "b" / "ca.key").unlink()
    with pytest.raises(IdentityError, match="restore it"):
        server_certificate(tmp_path / "b")
    monkeypatch.setattr(authority, "CA_LIFE", timedelta(minutes=-5))
    with pytest.raises(IdentityError, match="expired"):
        server_certificate(tmp_path / "c")


@pytest.mark.parametrize(
    "host", ["", "*.example", "a b", "http://a.example", "a.example:9000", "-a", "a..b", "ä.de"]
)
def test_what_is_no_host_gets_no_certificate(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="no host"):
        server_certificate(tmp_path, [host])


@pytest.mark.parametrize(
    "name", ["PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_S3_IGNORE_TLS"]
)
@pytest.mark.parametrize(
    ("value", "refused"),
    [("1", True), ("true", True), ("yes", True), ("0", False), ("False", False), ("", False)],
)
def test_a_switch_is_refused_when_it_is_on(name: str, value: str, refused: bool) -> None:
    if not refused:
        refuse_unchecked({name: value})
        return
    with pytest.raises(ConfigError, match=name):
        refuse_unchecked({name: value})


def test_a_file_without_a_certificate_is_no_ca(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("hello")
    for name in ("no.pem", "absent.pem"):
        with pytest.raises(ConfigError, match=name):
            read_ca(tmp_path / name)
