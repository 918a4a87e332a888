"""Whose certificates are believed, for the clients: always checked, and a refusal is one clear line."""

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import certifi

from fedllm.errors import ConfigError

# By these the programs that fedllm starts or is built on would stop to check certificates.
PREFECT_SWITCH = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY"
MLFLOW_SWITCH = "MLFLOW_TRACKING_INSECURE_TLS"
SWITCHES = (PREFECT_SWITCH, MLFLOW_SWITCH, "MLFLOW_S3_IGNORE_TLS")
_OFF = {"", "0", "false", "f", "no", "n", "off"}

_EXPIRED, _TOO_EARLY = 10, 9  # OpenSSL's X509_V_ERR_...
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
_OTHER_HOST = {62, 64}  # name, address


def trusting(ca: str | None = None) -> ssl.SSLContext:
    """A client's context that checks certificate and host.

    Args:
        ca: PEM of the authority that alone is believed; None: those that this machine believes.

    Raises:
        ConfigError: `ca` holds no certificate.
    """
    if ca is None:
        context = ssl.create_default_context()
        if not os.environ.get("SSL_CERT_FILE"):
            context.load_verify_locations(certifi.where())  # not every Python finds its system's
        return context
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise ConfigError("the CA that was given is no certificate in PEM") from None


def read_ca(path: Path | str) -> str:
    """A file of CA certificates as text. Raises `ConfigError` when it cannot be read or holds none."""
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: no CA certificate can be read there") from None
    try:
        trusting(text)
    except ConfigError:
        raise ConfigError(f"{path} holds no CA certificate in PEM") from None
    return text


def refuse_unchecked(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment that switches the check of certificates off.

    Raises:
        ConfigError: it does; names the variable.
    """
    for name in SWITCHES:
        if environment.get(name, "").strip().lower() not in _OFF:
            raise ConfigError(
                f"{name} is set, by which certificates would not be checked: unset it, and give the CA that"
                " you trust instead"
            )


def why_untrusted(error: BaseException) -> str | None:
    """What is wrong with a server's certificate, in words, when that is why `error` was raised."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code == _EXPIRED:
                return "its certificate has expired: have it renewed (`fedllm up` renews the local stack's)"
            if cause.verify_code == _TOO_EARLY:
                return "its certificate is not valid yet: compare this machine's clock with the server's"
            if cause.verify_code in _OTHER_HOST:
                return "its certificate is for another host: use a name that the certificate holds"
            return "its certificate is not from a CA that is trusted here"
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return "it does not speak TLS: nothing is sent to it in the clear"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those within: libraries keep the first in `reason`, `args` or `__cause__`."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop()
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [getattr(found, "reason", None), found.__cause__, found.__context__, *found.args]
