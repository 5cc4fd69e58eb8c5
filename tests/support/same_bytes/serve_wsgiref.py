"""Serves an application with the server of the standard library: `python -m serve_wsgiref PORT module:attribute`."""

from __future__ import annotations

import importlib
import sys
from wsgiref.simple_server import WSGIServer, make_server


class Server(WSGIServer):
    # A test's client may ask again before the answer before has been forgotten.
    request_queue_size = 64


def main(port: str, named: str) -> None:
    module, _, attribute = named.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    with make_server("127.0.0.1", int(port), app, server_class=Server) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
