"""TLS trust and credentials for requests to a server, chosen by its address alone."""

import base64
import os
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore  # noqa: F401 - httpx would import it at its first request, perhaps in a thread
import httpx

from fedllm.endpoints.passwords import USER, passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.secure.trust import read_ca, refuse_unchecked, trusting

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Access:
    """Credentials, TLS context and proxy use of requests to one server."""

    authorization: str | None = field(repr=False)
    context: ssl.SSLContext | None = None  # for https
    proxied: bool = True

    def client(self, timeout: float) -> httpx.Client:
        """Return a client for this server only: it follows no redirects.

        Args:
            timeout: s, for each of connecting, sending and receiving.
        """
        headers = {"Authorization": self.authorization} if self.authorization is not None else {}
        verify = self.context or ssl.create_default_context()
        return httpx.Client(headers=headers, timeout=timeout, verify=verify, trust_env=self.proxied)


def access_to(url: str) -> Access:
    """Return the access to the server of a URL.

    Only servers of this home's stack receive the stack's passwords, and with TLS only the private CA is
    trusted for them. For other servers the CA comes from PREFECT_API_SSL_CERT_FILE,
    MLFLOW_TRACKING_SERVER_CERT_PATH or FEDLLM_CA_FILE, else from this machine; the user's own Prefect
    receives the credentials of the user's PREFECT_* variables.

    Raises:
        ConfigError: a variable disables certificate checks, or names a file without a certificate.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        refuse_unchecked()
    place = StackPaths.here()
    state = StackState.load(place)
    server = _own_server(state, f"{parts.scheme}://{parts.netloc}")
    if server is not None:
        own = trusting(read_ca(place.ca / "ca.crt")) if state.secure else None
        return Access(_own_authorization(place, server), own, _proxied(url))
    context = trusting(_foreign_ca(url)) if parts.scheme == "https" else None
    prefects = {_origin(state.external_prefect or ""), _origin(os.environ.get("PREFECT_API_URL", ""))}
    authorization = _prefect_authorization() if _origin(url) in prefects else None
    return Access(authorization, context, _proxied(url))


def _own_server(state: StackState, origin: str) -> str | None:
    """Return the name of this stack's server at an address, if the stack has passwords; else None."""
    if not state.has_passwords:
        return None
    own = {name: state.url(name) for name in state.ports if name != "prefect" or not state.external_prefect}
    return next((name for name, address in own.items() if address == origin), None)


def _own_authorization(place: StackPaths, server: str) -> str | None:
    stored = passwords(place)
    secret = {"prefect": stored.prefect_auth, "mlflow": f"{USER}:{stored.mlflow}"}.get(server)
    return _basic(secret) if secret else None


def _foreign_ca(url: str) -> str | None:
    """Return the CA that the user's variables name for an external server."""
    for address, name in (
        ("PREFECT_API_URL", "PREFECT_API_SSL_CERT_FILE"),
        ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ):
        if _origin(os.environ.get(address, "")) == _origin(url):
            return read_ca(path) if (path := os.environ.get(name)) else None
    return read_ca(path) if (path := os.environ.get("FEDLLM_CA_FILE")) else None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _proxied(url: str) -> bool:
    """Return whether requests may use the environment's proxy: never for loopback."""
    return urlsplit(url).hostname not in _LOOPBACK


def _prefect_authorization() -> str | None:
    """Return the header for the user's own Prefect: an API key, or the server's shared password."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return f"Bearer {key}"
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        return _basic(secret)
    return None


def _basic(secret: str) -> str:
    return f"Basic {base64.b64encode(secret.encode()).decode()}"
