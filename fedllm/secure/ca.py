"""A private certificate authority in one folder, and the certificate of this machine's servers.

X.509 by `cryptography` on the curve P-256, which every TLS client supports. The authority's key never leaves
its folder; `ca.crt` is public and goes to every client.
"""

import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedllm.config.home import private_dir
from fedllm.disk import write_whole
from fedllm.errors import ConfigError, IdentityError
from fedllm.secure.identity import read_private, write_private

LOOPBACK = ("127.0.0.1", "localhost")
CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
RENEWAL = timedelta(days=30)  # a server's certificate is renewed this long before its end
_SKEW = timedelta(hours=1)  # the parties' clocks may differ by this much
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"

CaKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class ServerCertificate:
    """Paths of a server's certificate and key, and of the authority's certificate for its clients."""

    certificate: Path
    key: Path  # mode 600
    ca: Path


@dataclass(frozen=True)
class Validity:
    """A certificate's hosts and end."""

    hosts: tuple[str, ...]
    ends: datetime  # UTC

    @property
    def left(self) -> timedelta:
        """Remaining time; negative if the certificate has expired."""
        return self.ends - datetime.now(UTC)


def server_certificate(folder: Path, hosts: Iterable[str] = ()) -> ServerCertificate:
    """Return the certificate of this machine's servers; create or renew it and the authority if needed.

    It covers 127.0.0.1, localhost, its former hosts, and `hosts` (names or addresses).

    Raises:
        ConfigError: a host is neither a name nor an address.
        IdentityError: a part of the authority is missing, damaged, readable by others, or has expired.
    """
    key, ca = _authority(folder)
    added = [_host(name) for name in hosts]
    files = ServerCertificate(folder / "server.crt", folder / "server.key", folder / "ca.crt")
    former = _loaded(files.certificate)
    kept = _hosts(former) if former is not None and former.issuer == ca.subject else ()
    wanted = tuple(dict.fromkeys((*LOOPBACK, *kept, *added)))
    if former is None or set(wanted) != set(kept) or _due(former, ca) or not _has_key(files.key, former):
        _issue(files, wanted, key, ca)
    return files


def renewal_due(folder: Path) -> bool:
    """Return whether the servers' certificate is missing, near its end, or from another authority."""
    _, ca = _authority(folder)
    former = _loaded(folder / "server.crt")
    return former is None or _due(former, ca)


def validity(path: Path) -> Validity:
    """Return a certificate's hosts and end. Raises `IdentityError` if the file is no certificate."""
    certificate = _loaded(path)
    if certificate is None:
        raise IdentityError(f"{path} is missing: `fedllm ca` makes it")
    return Validity(_hosts(certificate), certificate.not_valid_after_utc)


def ca_fingerprint(path: Path) -> str:
    """Return a certificate's SHA-256 in hex, which people compare before they trust it."""
    certificate = _loaded(path)
    if certificate is None:
        raise IdentityError(f"{path} is missing: `fedllm ca` makes it")
    return certificate.fingerprint(hashes.SHA256()).hex()


def _authority(folder: Path) -> tuple[CaKey, x509.Certificate]:
    private_dir(folder)
    key_file, ca_file = folder / "ca.key", folder / "ca.crt"
    if not key_file.exists():
        if ca_file.exists():
            raise IdentityError(f"{key_file} is missing: restore it, or move {folder} away and start anew")
        write_private(key_file, _pem(ec.generate_private_key(ec.SECP256R1())))
    key = _key(key_file)
    ca = _loaded(ca_file)
    if ca is None:  # a new authority, or one interrupted between the two files
        ca = _self_signed(key)
        write_whole(ca_file, ca.public_bytes(serialization.Encoding.PEM), 0o644)
    if ca.public_key() != key.public_key():
        raise IdentityError(f"{key_file} is not the key of {ca_file}: restore the two that belong together")
    if ca.not_valid_after_utc < datetime.now(UTC):
        raise IdentityError(f"{ca_file} has expired: move {folder} away, then invite the sites anew")
    return key, ca


def _has_key(path: Path, certificate: x509.Certificate) -> bool:
    """Return whether the file exists and has the certificate's key: `_issue` may have been interrupted."""
    return path.exists() and _key(path).public_key() == certificate.public_key()


def _key(path: Path) -> CaKey:
    try:
        key = serialization.load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError):
        raise IdentityError(f"{path} is damaged: restore it") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError(f"{path} is no key of `fedllm ca`: restore that one")
    return key


def _self_signed(key: CaKey) -> x509.Certificate:
    # Two authorities have different names, so that no client confuses their keys.
    name = _name(f"fedllm private CA {secrets.token_hex(4)}")
    return (
        _builder(name, name, key.public_key(), CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _issue(files: ServerCertificate, hosts: tuple[str, ...], key: CaKey, ca: x509.Certificate) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    life = min(SERVER_LIFE, ca.not_valid_after_utc - datetime.now(UTC))
    made = (
        _builder(_name("fedllm servers"), ca.subject, own.public_key(), life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_whole(files.key, _pem(own), 0o600)
    write_whole(files.certificate, made.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _due(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return True
    ends = certificate.not_valid_after_utc
    # A certificate that ends with its authority cannot be extended.
    return ends - datetime.now(UTC) < RENEWAL and ends < ca.not_valid_after_utc - _SKEW


def _loaded(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise IdentityError(f"{path} is no certificate: remove it, or restore what was there") from None


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _host(text: str) -> str:
    name = text.strip().lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if len(name) > 253 or not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", name):  # noqa: PLR2004 - DNS' limit
        raise ConfigError(f"{text!r} is no host: give a name such as minio.example, or an address")
    return name


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key: CaKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
