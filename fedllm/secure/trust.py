"""TLS trust of clients: certificates are always checked, and a failure is explained in one line."""

import os
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import certifi

from fedllm.errors import ConfigError

# Variables that disable certificate checks in programs that fedllm starts or uses.
PREFECT_SWITCH = "PREFECT_API_TLS_INSECURE_SKIP_VERIFY"
MLFLOW_SWITCH = "MLFLOW_TRACKING_INSECURE_TLS"
SWITCHES = (PREFECT_SWITCH, MLFLOW_SWITCH, "MLFLOW_S3_IGNORE_TLS")
_OFF = {"", "0", "false", "f", "no", "n", "off"}

_EXPIRED, _TOO_EARLY = 10, 9  # OpenSSL's X509_V_ERR_...
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}
_OTHER_HOST = {62, 64}  # name, address


def trusting(ca: str | None = None) -> ssl.SSLContext:
    """Return a client's TLS context that checks certificate and host name.

    Args:
        ca: PEM of the only trusted authority; None: this machine's authorities.

    Raises:
        ConfigError: `ca` has no certificate.
    """
    if ca is None:
        context = ssl.create_default_context()
        if not os.environ.get("SSL_CERT_FILE"):
            context.load_verify_locations(certifi.where())  # not every Python finds the system's
        return context
    try:
        return ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError):
        raise ConfigError("the CA that was given is no certificate in PEM") from None


def read_ca(path: Path | str) -> str:
    """Return a file of CA certificates as text. Raises `ConfigError` if it is unreadable or has none."""
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
    """Refuse an environment that disables certificate checks.

    Raises:
        ConfigError: a variable disables them; names the variable.
    """
    for name in SWITCHES:
        if environment.get(name, "").strip().lower() not in _OFF:
            raise ConfigError(
                f"{name} is set, which disables certificate checks: unset it, and give the CA that you trust"
                " instead"
            )


def why_untrusted(error: BaseException) -> str | None:
    """Return what is wrong with a server's certificate if that caused `error`; else None."""
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
    """Yield the error and its causes, which libraries store in `reason`, `args` or `__cause__`."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        cause = pending.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        pending += [getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args]
