"""Ports of this test process' own: its neighbours, which start stacks as well, have others."""

import os

from fedllm.stack.health import free_port


def own_ports(start: int = 20_000) -> dict[str, int]:
    """Ports for a stack, from `start` on: below those that the system gives away by itself."""
    start += 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    free = (port for port in range(start, start + 500) if free_port(port))
    return {name: next(free) for name in ("door", "minio", "prefect", "mlflow")}
