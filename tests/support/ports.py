"""A loopback port to give to a process that must be told where to listen."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port on 127.0.0.1 that the kernel has just found free.

    Nothing holds it afterwards: start the server at once, and take a refusal to bind as a reason to ask again.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
