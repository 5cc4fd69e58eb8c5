"""One process that plays every scene in every kind of application: `python -m tests.reliability.secrets.scene`.

Its standard output and error are what is searched, with OUT/pages (scrapes, doctor), the state folder, and what its
collector gets. It leaves OUT/places.json: which canary stands for which place. With `--careless` every guard of ours
is off: the control, which shows that the places can tell their secrets and that the search finds them.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import io
import json
import os
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.reliability.secrets.canaries import Canaries, percent


def be_careless() -> None:
    """No redaction: every guard replaced by what a careless library would do. Before anything else is imported."""
    import obskit.redact as redact

    redact.scrub = lambda text, is_secret=None: text
    redact.is_secret_name = lambda key: False
    redact.make_redactor = lambda more=(): lambda key: False
    import obskit.errors as errors
    import obskit.plain as plain

    errors.scrub = redact.scrub
    plain.scrub = redact.scrub
    plain._BEYOND = 0

    def careless(value: Any, is_secret: Any = None, depth: int = 0) -> Any:
        if isinstance(value, dict):
            return {str(key): careless(item) for key, item in value.items()}
        if isinstance(value, BaseException):
            return plain.exception_of(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if type(value).__name__ == "SecretStr":
            return value.get_secret_value()
        if type(value).__name__ == "Secretive":
            return value.password.get_secret_value()
        return str(value)

    plain.plain = careless
    plain.clean = lambda text, is_secret=None, limit=0: text
    plain.text_of = lambda value, is_secret=None: str(value)
    plain.key_of = lambda key, is_secret=None: str(key)

    def message(error: BaseException, is_secret: Any = None) -> str:
        notes = " ".join(getattr(error, "__notes__", ()))
        within = " ".join(map(str, getattr(error, "exceptions", ())))
        inner = str(error.errors()) if hasattr(error, "errors") else ""
        return f"{error} {error.args} {notes} {within} {inner}"

    plain.message_of = message
    from obskit.signals import lines, scrubbing, writer

    writer.MAX_LINE_BYTES = lines.MAX_LINE_BYTES = 10**9
    lines.MAX_TEXT = 10**6
    scrubbing.scrubbed = lambda span, is_secret=None: span
    scrubbing.scrubbed_resource = lambda resource, is_secret=None: resource


@functools.cache
def answering_port() -> int:
    """The port of a server of this process that says yes to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def request_of(make: Canaries, kind: str, name: str) -> dict[str, Any]:
    """A request that carries a canary wherever a request can."""

    def canary(place: str, shape: str = "word") -> str:
        return make(f"{kind}: request, {place}", shape)

    headers = {
        "Authorization": f"Bearer {canary('Authorization: Bearer')}",
        "Proxy-Authorization": f"Basic {canary('Proxy-Authorization: Basic', 'base64')}",
        "Cookie": f"sessionid={canary('Cookie: sessionid')}; csrftoken={canary('Cookie: csrftoken')}; "
        f"theme={canary('Cookie: any name')}",
        "X-Api-Key": canary("X-Api-Key"),
        "X-Auth-Token": canary("X-Auth-Token"),
        "X-CSRF-Token": canary("X-CSRF-Token"),
        "X-Amz-Security-Token": canary("X-Amz-Security-Token"),
        "X-Anything": canary("any header"),
        "Referer": f"https://ann:{canary('Referer, userinfo')}@shop.example/x?q={canary('Referer, query')}",
        "User-Agent": f"curl/8 token={canary('User-Agent, a pair')} {canary('User-Agent, a token', 'github')}",
        "Origin": f"https://{canary('Origin')}.example",
        "If-None-Match": f'"{canary("If-None-Match")}"',
        "X-Request-ID": canary("X-Request-ID with a token", "jwt"),
        "X-Forwarded-For": "203.0.113.7",
        "Baggage": f"user={canary('baggage')}",
        "Tracestate": f"vendor={canary('tracestate')}",
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    query = {
        "q": canary("a query value"),
        "token": canary("a query value under a secret's name"),
        canary("a query key"): "1",
        "next": percent(f"/x?password={canary('a query value, encoded twice')}", 2),
    }
    json_body = {"card": canary("a JSON body"), "password": canary("a JSON body, password")}
    form = {"comment": canary("a form"), "password": canary("a form, password")}
    multipart = (
        '--b\r\nContent-Disposition: form-data; name="comment"\r\n\r\n'
        f"{canary('multipart')}\r\n"
        f'--b\r\nContent-Disposition: form-data; name="f"; filename="{canary("a file name")}.txt"\r\n\r\n'
        f"{canary('a file')}\r\n--b--\r\n"
    )
    bodies = [
        ("application/json", json.dumps(json_body)),
        ("application/x-www-form-urlencoded", urlencode(form)),
        ("multipart/form-data; boundary=b", multipart),
    ]
    # Each kind of body with another scene.
    content_type, body = bodies[sum(map(ord, name)) % 3 if name != "quiet" else 0]
    tokens = [
        canary(f"a token in the path, {shape}", shape)
        for shape in ("jwt", "github", "slack", "aws", "encoded")
    ]
    path = f"/scene/{name}/{'/'.join(tokens)}/password={canary('a pair in the path')}"
    headers["Content-Type"] = content_type
    return {
        "path": path,
        "query": urlencode(query),
        "headers": headers,
        "body": body.encode(),
        "method": "POST",
    }


def ask(app: Any, interface: str, request: dict[str, Any]) -> None:
    """One request as a server hands it over."""
    from tests.support.recording import call_asgi, http_scope, make_environ, talk_wsgi

    if interface == "wsgi":
        headers = {
            f"HTTP_{key.upper().replace('-', '_')}": value for key, value in request["headers"].items()
        }
        environ = make_environ(request["path"], request["method"], request["body"], **headers)
        environ |= {"QUERY_STRING": request["query"], "CONTENT_TYPE": request["headers"]["Content-Type"]}
        talk_wsgi(app, environ)
        return
    headers_sent = [(key.lower().encode(), value.encode()) for key, value in request["headers"].items()]
    headers_sent.append((b"content-length", str(len(request["body"])).encode()))
    scope = http_scope(
        request["path"], request["method"], headers_sent, query_string=request["query"].encode()
    )
    call_asgi(
        app, scope, [{"type": "http.request", "body": request["body"], "more_body": False}], patient=True
    )


def ask_websocket(app: Any, make: Canaries, kind: str) -> None:
    from tests.support.recording import call_asgi, websocket_scope

    request = request_of(make, kind, "quiet")
    headers = [(key.lower().encode(), value.encode()) for key, value in request["headers"].items()]
    scope = websocket_scope(
        f"/ws/{make(f'{kind}: a token in the path of a WebSocket', 'github')}",
        headers=headers,
        query_string=f"ticket={make(f'{kind}: the query of a WebSocket')}".encode(),
    )
    scope["subprotocols"] = [make(f"{kind}: a subprotocol")]
    message = {"type": "websocket.receive", "text": make(f"{kind}: a WebSocket message")}
    call_asgi(app, scope, [{"type": "websocket.connect"}, message])


def scrape(app: Any, interface: str, accept: str) -> bytes:
    from tests.support.recording import call_asgi, http_scope, make_environ, talk_wsgi

    if interface == "wsgi":
        return talk_wsgi(app, make_environ("/metrics", HTTP_ACCEPT=accept)).data
    return call_asgi(app, http_scope("/metrics", headers=[(b"accept", accept.encode())])).body


def wrong_options(make: Canaries) -> str:
    """What `install` says of options it cannot take."""
    import obskit

    told = []
    for name, value in {
        "otlp_endpoint": make("a wrong option: an endpoint that is a DSN", "dsn"),
        "state_dir": ("password", make("a wrong option: a pair", "jwt")),
        "log_level": make("a wrong option: a token", "github"),
        "slow_token": make("an unknown option"),
        "redact": make("a wrong option: a list", "bearer").encode(),
    }.items():
        try:
            obskit.install(lambda environ, start_response: [], interface="wsgi", **{name: value})
        except obskit.InstallError as error:
            told.append(str(error))
    obskit.shutdown(timeout_s=1)
    return "\n".join(told)


def play(out: Path, log_format: str, kinds: list[str], seed: str) -> None:
    make = Canaries(seed)
    (out / "state").mkdir(exist_ok=True)
    os.environ |= {
        "DATABASE_URL": make("the environment: DATABASE_URL", "dsn"),
        "AWS_SECRET_ACCESS_KEY": make("the environment: AWS_SECRET_ACCESS_KEY"),
        "OBSKIT_METRICS_TOKEN": make("the environment: OBSKIT_METRICS_TOKEN") + "-0123456789",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={make('the environment: OTEL_EXPORTER_OTLP_HEADERS')}",
        "OTEL_RESOURCE_ATTRIBUTES": f"team=shop,api_key={make('the environment: OTEL_RESOURCE_ATTRIBUTES')},"
        f"note={make('the environment: a token in OTEL_RESOURCE_ATTRIBUTES', 'github')}",
    }
    host = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = (
        f"http://app:{make('the userinfo of the OTLP endpoint')}@{host}"
    )
    import obskit
    from tests.reliability.secrets import apps, scenes

    stage = apps.Stage(make)
    pages = [wrong_options(make).encode()]
    options: dict[str, Any] = {"log_format": log_format, "redact": ["iban"], "state_dir": str(out / "state")}
    for kind in kinds:
        build, interface = apps.KINDS[kind]
        app = obskit.install(build(stage, kind), service=kind, interface=interface, **options)
        for name in scenes.SCENES:
            ask(app, interface, request_of(make, kind, name))
        if kind == "fastapi":
            refused = request_of(make, kind, "quiet")
            refused |= {
                "path": "/order",
                "body": json.dumps({"quantity": make("fastapi: a body of a 422")}).encode(),
            }
            ask(app, interface, refused)
            stage.arrived.append(refused["body"].decode())
        if kind == "plain asgi":
            ask_websocket(app, make, kind)
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            pages.append(scrape(app, interface, accept))
    from obskit import cli

    for arguments in (["doctor", "--json"], ["doctor"]):
        told = io.StringIO()
        with redirect_stdout(told), redirect_stderr(told):
            cli.main([*arguments, "--state-dir", str(out / "state")])
        pages.append(told.getvalue().encode())
    # Before shutdown: it clears the shared files away.
    for file in sorted((out / "state").rglob("*")):
        if file.is_file():
            pages.append(file.read_bytes())
    obskit.shutdown(timeout_s=10)
    (out / "pages").write_bytes(b"\n".join(pages))
    (out / "arrived").write_text("\n".join(stage.arrived), "utf-8", "surrogateescape")
    nobodys = [
        place
        for place in make.places.values()
        if place.startswith(("the environment: ", "the SECRET", "a database"))
    ]
    nobodys += ["an unknown option", "the userinfo of the OTLP endpoint"]
    nobodys = [place for place in nobodys if "RESOURCE" not in place]
    never = sorted({*scenes.NEVER_LOOKED_AT, *nobodys})
    (out / "places.json").write_text(json.dumps({"places": make.places, "never": never}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("log_format", choices=("json", "console"))
    parser.add_argument("--seed", default="0")
    parser.add_argument("--kinds", nargs="+", required=True)
    parser.add_argument("--careless", action="store_true")
    options = parser.parse_args()
    if options.careless:
        be_careless()
    sys.modules.setdefault("tests.reliability.secrets.scene", sys.modules["__main__"])
    play(options.out, options.log_format, options.kinds, options.seed)


if __name__ == "__main__":
    main()
