"""A page of a stranger's in a browser, and the ways in which it may ask a server of this machine to act."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from playwright.sync_api import Page

# Each is given an address, a body of JSON and, where the page knows one, an Authorization.
_ASK = """
async ([url, body, authorization, options]) => {
  const headers = {'Content-Type': options.mode === 'no-cors' ? 'text/plain' : 'application/json'}
  if (authorization) headers.Authorization = authorization
  await fetch(url, {method: 'POST', body, headers, ...options}).catch(() => 0)
}
"""
_FORM = """
([url, name, value]) => new Promise(done => {
  const frame = Object.assign(document.createElement('iframe'), {name: 'answer'})
  const form = Object.assign(document.createElement('form'), {
    method: 'POST', action: url, enctype: 'text/plain', target: 'answer',
  })
  form.append(Object.assign(document.createElement('input'), {name, value}))
  document.body.append(frame, form)
  form.submit()
  setTimeout(() => { frame.remove(); form.remove(); done() }, 700)
})
"""
_SOCKET = """
url => new Promise(done => {
  const socket = new WebSocket(url, ['prefect'])
  socket.onopen = () => { socket.close(); done(true) }
  socket.onerror = () => done(false)
})
"""


def ask_in_every_way(page: Page, url: str, body: Mapping[str, Any], authorization: str | None = None) -> None:
    """Have a page send a POST as scripts and forms can, with what the browser keeps and without it."""
    text = json.dumps(body)
    for options in (
        {"credentials": "omit"},
        {"credentials": "include"},
        {"credentials": "include", "mode": "no-cors"},
    ):
        knows = None if options.get("mode") else authorization
        page.evaluate(_ASK, [url, text, knows, options])
        if knows:
            page.evaluate(_ASK, [url, text, None, options])
    page.evaluate(_FORM, [url, f'{text[:-1]}{", " if body else ""}"and": "', '"}'])  # a form puts a = between


def opens_a_socket(page: Page, url: str) -> bool:
    """Whether a page is let in by a web socket."""
    return bool(page.evaluate(_SOCKET, url))


class _Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a stranger's</title><body></body>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def strangers_server() -> Iterator[int]:
    """A server of blank pages; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Blank)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
