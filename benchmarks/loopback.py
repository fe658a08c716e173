"""What the servers that benchmarks and tests start on loopback share."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of the loopback that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
