"""A server on loopback and the web: whom it answers."""

import asyncio
from typing import Any

import pytest

from fedllm.stack.own_pages import OwnPages


def asked(kind: str = "http", **headers: str) -> Any:  # noqa: ANN401 - a status, or what a socket was told
    """What a request comes to."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:  # noqa: ANN401
        return {"type": "http.request"}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    guarded = OwnPages(app, origins=["http://localhost:4200", "https://prefect.example"])
    scope = {"type": kind, "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(guarded(scope, receive, send))
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:4200"},
        {"host": "localhost:14200"},  # through a tunnel
        {"host": "[::1]:4200"},
        {"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:4200"},
        {"host": "127.0.0.1:4200", "origin": "http://localhost:4200"},
        {"host": "localhost:14200", "origin": "http://localhost:14200"},
        {"host": "127.0.0.1:4200", "origin": "https://prefect.example"},
    ],
)
def test_its_own_names_and_pages_are_answered(headers: dict[str, str]) -> None:
    assert asked(**headers) == 200
    assert asked("websocket", **headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "evil.example"},
        {"host": "evil.example:4200"},
        {"host": "127.0.0.1.evil.example:4200"},
        {"host": "localhost@evil.example"},
        {"host": "[::1"},
        {"host": "127.0.0.1:4200", "origin": "http://evil.example"},
        {"host": "127.0.0.1:4200", "origin": "null"},
        {"host": "127.0.0.1:4200", "origin": ""},
        {"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:8000"},  # another program's page
        {"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:4200.evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
)
def test_other_names_and_other_pages_are_refused(headers: dict[str, str]) -> None:
    assert asked(**headers) == 403
    assert asked("websocket", **headers) == "websocket.close"
