"""A narrow, distant line: a TCP proxy that lets bytes through at a rate, and each of them late."""

import asyncio
import contextlib
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator

CHUNK = 1024  # bytes


class Line:
    """A line to the loopback port `to`: `rate` bytes/s each way over all connections, `delay` s away."""

    def __init__(self, to: int, rate: float, delay: float) -> None:
        self.to, self.rate, self.delay = to, rate, delay
        self.port = 0  # of this end
        self.carried = 0  # bytes, both ways
        self.ways = asyncio.Lock(), asyncio.Lock()  # up and down

    async def connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        far_writer: StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
            up, down = self.ways
            await asyncio.gather(self._carry(reader, far_writer, up), self._carry(far_reader, writer, down))
        except OSError:
            pass  # either end went away, and the other one sees it
        finally:
            for end in (writer, far_writer):
                if end is not None:
                    end.close()

    async def _carry(self, reader: StreamReader, writer: StreamWriter, way: asyncio.Lock) -> None:
        """Both ends of one direction: bytes leave at the line's rate and arrive after its delay."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        await asyncio.gather(self._depart(reader, under_way, way), self._arrive(writer, under_way))

    async def _depart(
        self, reader: StreamReader, under_way: asyncio.Queue[tuple[float, bytes]], way: asyncio.Lock
    ) -> None:
        data = b"-"
        while data:
            data = await reader.read(CHUNK)
            async with way:
                await asyncio.sleep(len(data) / self.rate)
            self.carried += len(data)
            under_way.put_nowait((asyncio.get_running_loop().time() + self.delay, data))

    @staticmethod
    async def _arrive(writer: StreamWriter, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@contextlib.contextmanager
def slow_link(to: int, *, rate: float, delay: float) -> Iterator[Line]:
    """A line from a free loopback port, its `port`, to the loopback port `to`; served by a thread."""
    line, loop, ready = Line(to, rate, delay), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(line.connect, "127.0.0.1", 0)
        line.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(serve())

    def end() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield line
    finally:
        loop.call_soon_threadsafe(end)
        thread.join(10)
