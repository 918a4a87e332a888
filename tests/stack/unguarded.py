"""Prefect's own server without a password, at two ports: as it comes, and behind the check of pages.

`python unguarded.py PORT GUARDED_PORT`: what the stack's tests compare with.
"""

import asyncio
import sys

from prefect.server.api.server import create_app
from uvicorn import Config, Server

from fedllm.stack.own_pages import OwnPages


async def serve(port: int, guarded: int) -> None:
    """Serve one application twice, until the process ends."""
    app = create_app()
    bare = Config(app, port=port, log_level="warning")
    behind = Config(OwnPages(app), port=guarded, log_level="warning", lifespan="off")
    await asyncio.gather(Server(bare).serve(), Server(behind).serve())


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
