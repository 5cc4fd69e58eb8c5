"""Writes what the docs have from the code: signals.md, configuration.md, in silent-failures.md the table that says
where each finding is seen, from the cases of the conformance suite, and in reliability.md and performance.md what the
long forms and `make bench` saw, from the files they left in reliability/ and performance/. A test compares them byte
for byte.

python docs/generate.py          write all
python docs/generate.py --check  exit 1 if one is out of date
"""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from obskit import names
from obskit.config import Config
from obskit.detectors import shipped
from obskit.exchange import Outcome

HERE = Path(__file__).parent

OUTCOMES = {
    Outcome.COMPLETED: "the whole response was handed to the server while the client was there",
    Outcome.RAISED: "an exception ended the request before headers were sent (status 500)",
    Outcome.RAISED_AFTER_HEADERS: "an exception cut the response off after its status had been sent",
    Outcome.NO_RESPONSE: "the application returned without a response (status 500)",
    Outcome.CLIENT_DISCONNECT: "the client left before the last byte, or before the end of its own upload",
    Outcome.TRUNCATED: "fewer bytes than declared, or no last body message",
    Outcome.CANCELLED: "the server cancelled the application while the client was there",
    Outcome.TIMEOUT: "the server gave up on the request",
    Outcome.UNKNOWN: "the server gives no way to tell",
}

SPAN_ATTRIBUTES = {
    names.ATTR_METHOD: "known method, else `_OTHER`",
    names.ATTR_METHOD_ORIGINAL: "the method as sent, when it is not a known one",
    names.ATTR_ROUTE: "the framework's template; absent when no route matched",
    names.ATTR_STATUS: "absent when no status was sent",
    names.ATTR_ERROR_TYPE: "the status for 5xx, the exception's class for a response cut off by one",
    names.ATTR_URL_PATH: "decoded path, without query",
    names.ATTR_URL_SCHEME: "http, https, ws or wss",
    names.ATTR_PROTOCOL_VERSION: "1.1, 2 ...",
    names.ATTR_SERVER_ADDRESS: "address the server listens on",
    names.ATTR_SERVER_PORT: "its port",
    names.ATTR_CLIENT_ADDRESS: "the peer's address as the server gives it",
    names.ATTR_USER_AGENT: "User-Agent",
    names.ATTR_REQUEST_SIZE: "bytes of request body that reached the application",
    names.ATTR_RESPONSE_SIZE: "bytes of response body handed to the server",
    names.ATTR_OUTCOME: "the outcome below",
    names.ATTR_REQUEST_ID: "the request id of the log lines",
    names.ATTR_FACT_PREFIX + "*": "what `obskit.bind` added",
    names.ATTR_FINDINGS: "names of the findings; absent without one",
}

# Of the event obskit.finding, one per finding.
FINDING_ATTRIBUTES = {
    names.ATTR_FINDING: "which",
    names.ATTR_FINDING_SEVERITY: "info, warning or critical",
    names.ATTR_FINDING_WHY: "why no status told",
    names.ATTR_FINDING_TIMES: "how often the very same was seen during the request",
    names.ATTR_EVIDENCE_PREFIX + "*": "the facts that show it; lists as JSON",
}


def signals() -> str:
    """The contract: every name obskit gives out, from names.py."""
    out = [
        "# Signals: the names you can rely on",
        "",
        "Generated from `src/obskit/names.py` by `python docs/generate.py`; do not edit. Names may grow; one that",
        "changes is announced in the changelog. HTTP names follow the OpenTelemetry semantic conventions.",
        "",
        "## Metrics",
        "",
        "| metric | type | labels | what it says |",
        "|---|---|---|---|",
    ]
    for metric in names.METRICS:
        labels = " ".join(f"`{label}`" for label in metric.labels) or "–"
        out.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    buckets = " ".join(str(bound) for bound in names.DURATION_BUCKETS)
    sizes = " ".join(str(bound) for bound in names.SIZE_BUCKETS)
    out += [
        "",
        f"Buckets of durations, in seconds: {buckets}. Of sizes, in bytes: {sizes}. Duration buckets carry",
        "exemplars with `trace_id` (OpenMetrics). WebSocket connections are counted by outcome alone.",
        "",
        f"`http_route` is the framework's own template, `{names.UNMATCHED_ROUTE}` when no route matched, and",
        f"`{names.OVERFLOW}` beyond `max_series`. `http_request_method` is a known method or `{names.OTHER_METHOD}`.",
        "`http_response_status_code` is empty when no status was sent. `error_type` is the status for 5xx, the",
        "exception's class for a response cut off by one, else empty.",
        "",
        "Beside these the page shows the default registry of prometheus-client: `process_*`, `python_gc_*`,",
        "`python_info` and the application's own metrics.",
        "",
        "## Outcomes",
        "",
        "| outcome | meaning |",
        "|---|---|",
    ]
    out += [f"| `{outcome.value}` | {OUTCOMES[outcome]} |" for outcome in Outcome]
    out += [
        "",
        f"## The canonical line: event `{names.CANONICAL_EVENT}`",
        "",
        "One line per request or WebSocket connection. Every other line has the keys from `timestamp` to",
        "`deployment_environment`, and within a request `trace_id`, `span_id`, `request_id` and the bound facts.",
        "",
        "| key | meaning |",
        "|---|---|",
    ]
    out += [f"| `{key}` | {meaning} |" for key, meaning in names.CANONICAL_KEYS.items()]
    out += [
        "",
        "## The SERVER span: `{method} {http_route}`",
        "",
        "Status ERROR for a 5xx and for exceptions; the exception is a span event.",
        "",
        "| attribute | value |",
        "|---|---|",
    ]
    out += [f"| `{name}` | {meaning} |" for name, meaning in SPAN_ATTRIBUTES.items()]
    out += [
        "",
        f"Each finding is an event `{names.FINDING_EVENT}` on it:",
        "",
        "| attribute | value |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in FINDING_ATTRIBUTES.items()),
        "",
        "## Findings",
        "",
        "Told of in [silent-failures.md](silent-failures.md). What is found outside a request has a log line",
        f"`{names.FINDING_EVENT}` of its own.",
        "",
        "| finding | severity | what happened |",
        "|---|---|---|",
        *(f"| `{one.name}` | {one.severity} | {one.help} |" for one in shipped()),
    ]
    return "\n".join(out) + "\n"


def configuration() -> str:
    """Every option, from Config."""
    out = [
        "# Configuration",
        "",
        "Generated from `src/obskit/config.py` by `python docs/generate.py`; do not edit.",
        "",
        "Each option is a keyword argument of `obskit.install` and an environment variable. Arguments win over the",
        "environment, the environment over defaults. A wrong value fails at `install` with `obskit.InstallError`,",
        "which says what was seen and what is allowed.",
        "",
        "| option | environment | default | meaning |",
        "|---|---|---|---|",
    ]
    for option in fields(Config):
        if "help" not in option.metadata:
            continue
        default = "" if option.default in (None, (), MISSING) else f"`{option.default}`"
        help_text = option.metadata["help"]
        out.append(f"| `{option.name}` | `OBSKIT_{option.name.upper()}` | {default} | {help_text} |")
    out += [
        "",
        '`OBSKIT_METRICS_TOKEN` holds the bearer token of `metrics_access="token"`; it is no argument, so that it',
        "does not end up in source control.",
        "",
        "OpenTelemetry's own variables are honoured as its specification writes them: `OTEL_SERVICE_NAME`,",
        "`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_*`, `OTEL_TRACES_EXPORTER` (`otlp` or `none`),",
        "`OTEL_TRACES_SAMPLER[_ARG]`, `OTEL_BSP_*`, `OTEL_PROPAGATORS`, `OTEL_SDK_DISABLED` and",
        "`OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`.",
        "",
        "## What a value looks like",
        "",
        "What you log, `bind` or give as evidence is shown without running your code: numbers, texts, dates,",
        "`Decimal`, `UUID`, paths, enums and addresses are written out; bytes as a bounded text; mappings, lists",
        "and sets up to 64 items and four levels; dataclasses, attrs classes, named tuples, pydantic models and",
        "`SimpleNamespace` by the fields their instances hold. Any other object is named by its class,",
        "`<shop.models.Order>`: its `__str__` may query a database, block, or hold a secret. Write `str(order)`",
        "where you want its text. Exceptions with a `__str__` of their own are told by their arguments. Values",
        "under keys that name a secret, and secrets of known shapes in any text, are replaced by `[redacted]`; see",
        "[SECURITY.md](../SECURITY.md).",
    ]
    return "\n".join(out) + "\n"


TABLE_MARK = "<!-- table: generated by docs/generate.py -->"
TABLE_PAGE = HERE / "silent-failures.md"
RELIABILITY_MARK = "<!-- figures: generated by docs/generate.py from reliability/*.json -->"
RELIABILITY_PAGE = HERE / "reliability.md"
PERFORMANCE_MARK = "<!-- figures: generated by docs/generate.py from performance/cost.json -->"
PERFORMANCE_PAGE = HERE / "performance.md"


def silent_failures() -> str:
    """The page as it is, with the table between the mark and the next heading made anew."""
    if not TABLE_PAGE.exists():
        return ""
    sys.path.insert(0, str(HERE.parent))  # the cases are the tests' own
    from tests.conformance.findings_table import table  # noqa: PLC0415

    before, mark, after = _read(TABLE_PAGE).partition(TABLE_MARK)
    if not mark:
        raise SystemExit(f"docs/{TABLE_PAGE.name}: no line {TABLE_MARK!r}")
    _, heading, rest = after.partition("\n## ")
    return f"{before}{mark}\n\n{table()}{heading}{rest}"


def reliability() -> str:
    """The page as it is, with what the long forms saw between the mark and the next heading."""
    before, mark, after = _read(RELIABILITY_PAGE).partition(RELIABILITY_MARK)
    if not mark:
        raise SystemExit(f"docs/{RELIABILITY_PAGE.name}: no line {RELIABILITY_MARK!r}")
    _, heading, rest = after.partition("\n## ")
    seen = "\n".join(_seen(json.loads(_read(path))) for path in sorted((HERE / "reliability").glob("*.json")))
    return f"{before}{mark}\n\n{seen}{heading}{rest}"


def performance() -> str:
    """The page as it is, with what `make bench` saw between the mark and the next heading."""
    sys.path.insert(0, str(HERE.parent))  # the benchmark says itself what its figures mean
    from benchmarks.cost.report import markdown  # noqa: PLC0415

    before, mark, after = _read(PERFORMANCE_PAGE).partition(PERFORMANCE_MARK)
    if not mark:
        raise SystemExit(f"docs/{PERFORMANCE_PAGE.name}: no line {PERFORMANCE_MARK!r}")
    _, heading, rest = after.partition("\n## ")
    return (
        f"{before}{mark}\n\n{markdown(json.loads(_read(HERE / 'performance' / 'cost.json')))}{heading}{rest}"
    )


def _seen(found: dict[str, Any]) -> str:
    took = f"{found['took_s'] / 60:.0f} minutes" if found["took_s"] >= 120 else f"{found['took_s']} s"
    rows = "".join(f"| {_cell(what)} | {_cell(seen)} |\n" for what, seen in found["rows"])
    return (
        f"### {found['title']}\n\n`{found['command']}`, {found['date']}, Python {found['python']}, {took}\n\n"
        f"| tried | seen |\n|---|---|\n{rows}"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {
    "signals.md": signals,
    "configuration.md": configuration,
    TABLE_PAGE.name: silent_failures,
    RELIABILITY_PAGE.name: reliability,
    PERFORMANCE_PAGE.name: performance,
}


def main(arguments: list[str]) -> int:
    stale = [name for name, page in PAGES.items() if _read(HERE / name) != page()]
    if "--check" in arguments:
        for name in stale:
            sys.stderr.write(f"docs/{name} is out of date: run python docs/generate.py\n")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
