"""Limit a loopback server to requests for its own host names and from its own pages.

Loopback keeps other machines out, but not web pages: any page in a browser may send requests to 127.0.0.1,
and an attacker's host name may resolve to it (DNS rebinding). A request to Prefect can run commands, and the
browser adds MLflow's stored password to the requests of any page.
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
    """ASGI middleware that answers a foreign Host or Origin with 403, or refuses the websocket handshake."""

    def __init__(self, app: App, hosts: Iterable[str] = LOOPBACK, origins: Iterable[str] = ()) -> None:
        """Guard an application.

        Args:
            app: the application.
            hosts: names of the server, without ports.
            origins: origins of other pages that may send requests, such as `https://prefect.example`.
        """
        self.app = app
        self._hosts = frozenset(hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse a foreign request, or pass it to the application."""
        if scope["type"] not in {"http", "websocket"} or self._own(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(_REFUSED)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSED})

    def _own(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        decoded = [(name.lower(), value.decode("latin-1")) for name, value in headers]
        hosts = [value for name, value in decoded if name == b"host"]
        origins = [value for name, value in decoded if name == b"origin"]
        if len(hosts) != 1 or _hostname(f"//{hosts[0]}") not in self._hosts:
            return False
        return all(each in self._origins or urlsplit(each).netloc == hosts[0] for each in origins)


def own_pages(app: App, origins: str) -> OwnPages:
    """Guard a server of the stack, known by the loopback names and those in `FEDLLM_SERVER_HOSTS`.

    Args:
        app: the application.
        origins: comma-separated origins of other pages, such as those behind a proxy; their host names are
            also accepted as names of the server.
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
