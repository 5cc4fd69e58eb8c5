"""A payment gateway in one file, for the shops next door to call. Standard library only.

    python gateway.py --port 8900

POST /charge {"reference": str, "amount_cents": int} answers 200 {"status": "charged", "charge_id": ...}, or
402 {"status": "declined"} when the amount ends in 13 cents. Nothing is random: the charge id, the answer and
the latency follow from reference and amount, so charging the same reference twice is one charge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

MAX_BODY_BYTES = 64 * 1024
MAX_AMOUNT_CENTS = 10**12
MIN_LATENCY_S = 0.005
MAX_LATENCY_S = 0.040

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Answer = tuple[str, dict[str, Any]]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The gateway as a WSGI application; any WSGI server can serve it."""
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    headers = [("Content-Type", "application/json")]
    if path == "/healthz":
        allowed, answer = ("GET", "HEAD"), lambda: ("200 OK", {"status": "ok"})
    elif path == "/charge":
        allowed, answer = ("POST",), lambda: charge(environ)
    else:
        allowed, answer = (method,), lambda: ("404 Not Found", {"error": "not found"})
    if method in allowed:
        status, content = answer()
    else:
        headers.append(("Allow", ", ".join(allowed)))
        status, content = "405 Method Not Allowed", {"error": "method not allowed"}
    body = json.dumps(content).encode()
    headers.append(("Content-Length", str(len(body))))
    start_response(status, headers)
    return [] if method == "HEAD" else [body]


def charge(environ: dict[str, Any]) -> Answer:
    """Status line and answer for one charge; waits the few milliseconds a card network would take."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return "400 Bad Request", {"error": "Content-Length is no number"}
    if not 0 <= length <= MAX_BODY_BYTES:
        return "413 Content Too Large", {"error": f"a charge is at most {MAX_BODY_BYTES} bytes"}
    try:
        request = json.loads(environ["wsgi.input"].read(length))
        reference, amount_cents = request["reference"], request["amount_cents"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "422 Unprocessable Content", {"error": "send JSON with reference and amount_cents"}
    if not isinstance(reference, str) or not 0 < len(reference) <= 200:
        return "422 Unprocessable Content", {"error": "reference is a string of 1 to 200 characters"}
    if type(amount_cents) is not int or not 0 < amount_cents <= MAX_AMOUNT_CENTS:
        return "422 Unprocessable Content", {"error": "amount_cents is a whole number above 0"}
    # ASCII escapes keep a lone surrogate, legal in JSON, from failing to encode.
    digest = hashlib.sha256(json.dumps([reference, amount_cents]).encode()).digest()
    time.sleep(MIN_LATENCY_S + (MAX_LATENCY_S - MIN_LATENCY_S) * digest[0] / 255)
    if amount_cents % 100 == 13:
        return "402 Payment Required", {"status": "declined", "reason": "the card was refused"}
    return "200 OK", {"status": "charged", "charge_id": f"ch_{digest.hex()[:20]}"}


class GatewayServer(ThreadingMixIn, WSGIServer):
    """One daemon thread per connection: a slow caller delays nobody, and none delays the exit."""

    daemon_threads = True
    request_queue_size = 128  # the default of 5 refuses connections under a modest burst


class Handler(WSGIRequestHandler):
    """One JSON line per request with --verbose; else none, for a pipe that nobody reads fills up."""

    verbose = False

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if self.verbose:
            line = {
                "event": "gateway.request",
                "method": self.command,
                "path": self.path,
                "status": int(code),
                "traceparent": self.headers.get("traceparent"),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(description="A deterministic payment gateway for the example shops.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8900, help="port, 0 for a free one (default: %(default)s)"
    )
    parser.add_argument("--verbose", action="store_true", help="one JSON line per request on stdout")
    options = parser.parse_args(argv)
    Handler.verbose = options.verbose

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        server = make_server(options.host, options.port, application, GatewayServer, Handler)
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"cannot listen on {options.host}:{options.port}: {error}\n")
        return 1
    with server:
        sys.stdout.write(f"payment gateway on http://{options.host}:{server.server_port}\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
