"""How a server is entered: whom to believe, and how to say who asks. Decided by its address alone."""

import base64
import os
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpcore  # noqa: F401 - httpx imports it at its first request, and that may be a thread's
import httpx

from fedllm.endpoints.passwords import USER, passwords
from fedllm.endpoints.place import Place
from fedllm.endpoints.state import StackState
from fedllm.secure.trust import read_ca, refuse_unchecked, trusting

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True)
class Access:
    """What a request to one server needs."""

    authorization: str | None = field(repr=False)
    context: ssl.SSLContext | None = None  # for https
    proxied: bool = True

    def client(self, timeout: float) -> httpx.Client:
        """A client for requests to this server alone: it follows no redirect to another one.

        Args:
            timeout: s, for each of connecting, sending and receiving.
        """
        told = {"Authorization": self.authorization} if self.authorization is not None else {}
        verify = self.context or ssl.create_default_context()
        return httpx.Client(headers=told, timeout=timeout, verify=verify, trust_env=self.proxied)


def access_to(url: str) -> Access:
    """How to enter the server of a URL.

    A server of this home's stack is told the stack's own password, and with TLS believed by the private CA
    alone; no other server ever is. Others are believed as their own variables say
    (PREFECT_API_SSL_CERT_FILE, MLFLOW_TRACKING_SERVER_CERT_PATH, FEDLLM_CA_FILE), else as this machine
    believes; a Prefect of the user's own is told what the user's variables hold for it.

    Raises:
        ConfigError: a variable switches the check of certificates off, or names no certificate.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        refuse_unchecked()
    place = Place.here()
    state = StackState.load(place)
    server = _own_server(state, f"{parts.scheme}://{parts.netloc}")
    if server is not None:
        own = trusting(read_ca(place.ca / "ca.crt")) if state.secure else None
        return Access(_own_authorization(place, server), own, _proxied(url))
    context = trusting(_foreign_ca(url)) if parts.scheme == "https" else None
    prefects = {_origin(state.external_prefect or ""), _origin(os.environ.get("PREFECT_API_URL", ""))}
    asked = _prefect_authorization() if _origin(url) in prefects else None
    return Access(asked, context, _proxied(url))


def _own_server(state: StackState, origin: str) -> str | None:
    """Which server of a stack with passwords an address is; Prefect may be the user's own."""
    if not state.has_passwords:
        return None
    own = {name: state.url(name) for name in state.ports if name != "prefect" or not state.external_prefect}
    return next((name for name, address in own.items() if address == origin), None)


def _own_authorization(place: Place, server: str) -> str | None:
    drawn = passwords(place)
    secret = {"prefect": drawn.prefect_auth, "mlflow": f"{USER}:{drawn.mlflow}"}.get(server)
    return _basic(secret) if secret else None


def _foreign_ca(url: str) -> str | None:
    """The authority that the user names for a server of their own."""
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
    """Whether a proxy of the environment may be asked: never for loopback."""
    return urlsplit(url).hostname not in _LOOPBACK


def _prefect_authorization() -> str | None:
    """How the user's own Prefect is told who asks: an API key, or the server's shared password."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return f"Bearer {key}"
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        return _basic(secret)
    return None


def _basic(secret: str) -> str:
    return f"Basic {base64.b64encode(secret.encode()).decode()}"
