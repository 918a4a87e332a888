"""Which requests a server on loopback answers: those to its own names, and of pages only its own.

Loopback keeps other machines out, and not the web: any page that a browser shows may send requests to
127.0.0.1, and a name of the attacker's may lead there (DNS rebinding). Prefect does what it is asked, and
that is running commands; a browser sends MLflow the password that it keeps for it, whichever page asks.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_REFUSED = b"this server is for pages and programs of its own machine: see docs/operations.md\n"


class OwnPages:
    """ASGI middleware: a foreign Host or Origin is answered by 403, a socket's by a refused handshake."""

    def __init__(self, app: App, hosts: Iterable[str] = LOOPBACK, origins: Iterable[str] = ()) -> None:
        """Guard an application.

        Args:
            app: what is behind.
            hosts: names of the server, without ports.
            origins: pages beside the server's own that may speak with it, such as `https://prefect.example`.
        """
        self.app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or let the application do so."""
        if scope["type"] not in {"http", "websocket"} or self._own(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(_REFUSED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSED})

    def _own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        said = [(name.lower(), value.decode("latin-1")) for name, value in headers]
        hosts = [value for name, value in said if name == b"host"]
        origins = [value for name, value in said if name == b"origin"]
        if len(hosts) != 1 or _hostname(f"//{hosts[0]}") not in self._hosts:
            return False
        return all(each in self._origins or urlsplit(each).netloc == hosts[0] for each in origins)


def own_pages(app: App, origins: str) -> OwnPages:
    """Guard a server of the stack, on loopback or as `FEDLLM_SERVER_HOSTS` names it.

    Args:
        app: what is behind.
        origins: pages beside its own, such as those behind a proxy, separated by commas; the server may be
            called by their names too.
    """
    pages = [origin for origin in origins.split(",") if origin]
    named = [name for name in os.environ.get("FEDLLM_SERVER_HOSTS", "").split(",") if name]
    shown = [name for name in map(_hostname, pages) if name]
    return OwnPages(app, hosts=[*LOOPBACK, *named, *shown], origins=pages)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
