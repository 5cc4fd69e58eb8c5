"""One frozen Config: arguments win over environment, environment over defaults; a wrong value fails at install."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from typing import Any, Final

from obskit.errors import InstallError, shown

LOG_FORMATS: Final = ("auto", "json", "console")
LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_CAPTURES: Final = ("auto", "all", "off")
INVARIANT_MODES: Final = ("count", "raise")
METRICS_ACCESS: Final = ("loopback", "private", "public", "token")
LOG_WHEN_FULL: Final = ("drop", "block")
INCOMING_TRACES: Final = ("continue", "restart")
INTERFACES: Final = ("wsgi", "asgi")
# Besides networks: where a proxy usually stands.
PROXY_PLACES: Final = ("loopback", "private", "unix")
OTLP_PROTOCOLS: Final = ("http/protobuf", "grpc")
KEPT_TRACES: Final = ("errors", "slow", "findings")
OTLP_EXPORTERS: Final = ("lean", "official")


def _one_of(allowed: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if isinstance(value, str) and value.strip().lower() in allowed:
            return value.strip().lower()
        raise ValueError(f"one of {', '.join(allowed)}")

    return parse


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= 255:
        return value.strip()
    raise ValueError("a printable string of 1 to 255 characters")


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"1", "true", "yes", "on"}:
        return True
    if isinstance(value, str) and value.strip().lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("a boolean (in the environment: true or false)")


def _series_limit(value: Any) -> int:
    expected = "an integer from 10 to 1000000"
    if isinstance(value, bool):
        raise ValueError(expected)
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,7}\s*", value):
        value = int(value)
    if isinstance(value, int) and 10 <= value <= 1_000_000:
        return value
    raise ValueError(expected)


def _seconds(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str) else value
        if isinstance(number, int | float) and not isinstance(number, bool) and 0 < number <= 3600:
            return float(number)
    except ValueError:
        pass
    raise ValueError("seconds, more than 0 and at most 3600")


def _kept(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, Iterable) and not isinstance(parts, Mapping | bytes):
        found = [part.strip().lower() if isinstance(part, str) else "?" for part in parts]
        found = [part for part in found if part]
        if found == ["none"] or (not found and not isinstance(value, str)):
            return ()
        if found and set(found) <= set(KEPT_TRACES):
            return tuple(one for one in KEPT_TRACES if one in found)
    raise ValueError(f"none, or a list of {', '.join(KEPT_TRACES)} (in the environment: separated by commas)")


def _port(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,5}\s*", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
        return value
    raise ValueError("a TCP port from 1 to 65535")


def _proxies(value: Any) -> tuple[str, ...]:
    expected = (
        "a list of addresses or networks such as '10.0.0.0/8', or the words loopback, private, unix "
        "(in the environment: separated by commas)"
    )
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or isinstance(parts, Mapping | bytes):
        raise ValueError(expected)
    found = []
    for part in parts:
        text = part.strip().lower() if isinstance(part, str) else None
        if text == "":
            continue
        try:
            found.append(text if text in PROXY_PLACES else str(ip_network(text or "?", strict=False)))
        except ValueError:
            raise ValueError(expected) from None
    return tuple(found)


def _directory(value: Any) -> str:
    if isinstance(value, str | os.PathLike) and os.path.isabs(value) and os.path.isdir(value):
        return os.fspath(value)
    raise ValueError("the absolute path of a folder that exists")


def _path(value: Any) -> str:
    if (
        isinstance(value, str)
        and re.fullmatch(r"/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]", value)
        and "//" not in value
    ):
        return value
    raise ValueError("a path such as '/metrics': a leading slash, no query, no trailing slash")


def _names(item: str, pattern: str) -> Callable[[Any], tuple[str, ...]]:
    def parse(value: Any) -> tuple[str, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if isinstance(parts, Iterable) and not isinstance(parts, Mapping | bytes):
            found = tuple(part.strip() if isinstance(part, str) else part for part in parts)
            found = tuple(part for part in found if part != "")
            if all(isinstance(part, str) and re.fullmatch(pattern, part) for part in found):
                return found
        raise ValueError(f"a list of {item} (in the environment: separated by commas)")

    return parse


def _url(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", value.strip()):
        return value.strip()
    raise ValueError("an http:// or https:// URL without a query")


def _option(parse: Callable[[Any], Any], default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help_text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one install runs with. Every field is an argument of `install` and an `OBSKIT_` variable."""

    service: str | None = _option(
        _text, None, "service.name; OTEL_SERVICE_NAME and the app's own name come after"
    )
    service_version: str | None = _option(_text, None, "service.version")
    environment: str | None = _option(_text, None, "deployment.environment.name, such as production")
    metrics_path: str = _option(_path, "/metrics", "path that answers scrapes")
    metrics_access: str = _option(
        _one_of(METRICS_ACCESS),
        "loopback",
        "who may scrape: loopback, private (also RFC 1918 and unique local addresses), public, or token "
        "(a bearer token from OBSKIT_METRICS_TOKEN)",
    )
    metrics_port: int | None = _option(
        _port,
        None,
        "a TCP port of its own that answers scrapes at metrics_path, on loopback only while metrics_access is "
        "loopback; the application's own port then answers none",
    )
    trusted_proxies: tuple[str, ...] = _option(
        _proxies,
        (),
        "proxies whose X-Forwarded-For, X-Forwarded-Proto, Forwarded and X-Request-Start are believed: addresses or "
        "networks, or loopback, private, unix; none by default, for anybody can send these headers",
    )
    incoming_trace: str = _option(
        _one_of(INCOMING_TRACES),
        "continue",
        "continue: a caller's traceparent gives the trace id and says whether to sample; restart (a public edge): "
        "a trace of our own, sampled as we decide, with a link to the caller's",
    )
    keep_traces: tuple[str, ...] = _option(
        _kept,
        KEPT_TRACES,
        "which requests are recorded, as one span each, though nobody sampled them: errors, slow (see "
        "slow_request_s), findings, or none",
    )
    slow_request_s: float = _option(
        _seconds, 1.0, "how long a request takes that is slow enough for keep_traces"
    )
    log_format: str = _option(
        _one_of(LOG_FORMATS), "auto", "json, console, or auto: console on a TTY, else json"
    )
    log_when_full: str = _option(
        _one_of(LOG_WHEN_FULL),
        "drop",
        "when nobody reads standard output any more: drop (and count) lines, or block the application until they "
        "are read",
    )
    log_level: str = _option(_one_of(LOG_LEVELS), "info", "lowest level written")
    capture_logs: str = _option(
        _one_of(LOG_CAPTURES),
        "auto",
        "auto: one pipeline unless you already made a console handler, which is then kept; all: replace it; "
        "off: touch no logger but obskit's own",
    )
    access_logs: bool = _option(
        _flag, False, "keep the server's own access lines beside the canonical line, which says all of it"
    )
    exclude: tuple[str, ...] = _option(
        _names("paths such as '/healthz'", r"/\S*"), (), "exact paths that make no telemetry"
    )
    redact: tuple[str, ...] = _option(
        _names("key names", r"[A-Za-z0-9_.-]+"), (), "more key names whose values never leave the process"
    )
    max_series: int = _option(
        _series_limit, 2_000, "label sets per metric before new ones are counted under 'other'"
    )
    disabled_detectors: tuple[str, ...] = _option(
        _names("detector names such as 'soft_error'", r"[a-z][a-z0-9_]*"), (), "those switched off, by name"
    )
    duplicate_window_s: float = _option(
        _seconds, 10.0, "how long after a request the same one by the same client counts as its repetition"
    )
    soft_error_keys: tuple[str, ...] = _option(
        _names(
            "top-level keys of a JSON body: 'error' (there, and neither false nor empty), '!success' (there, and "
            "false), 'status=error'; '+' joins what must all hold",
            r"!?[^\s,+=!]+(=[^\s,+=]+)?(\+!?[^\s,+=!]+(=[^\s,+=]+)?)*",
        ),
        ("error", "errors", "!success", "!ok", "status=error+message", "status=fail+data"),
        "what makes the JSON body of a success say that it is an error",
    )
    invariants: str = _option(
        _one_of(INVARIANT_MODES),
        "count",
        "what a failed obskit.invariant does beside being a finding: count, or raise (for tests)",
    )
    stuck_request_s: float = _option(
        _seconds,
        10.0,
        "age from which a request that makes no progress is reported as stuck while it hangs, and again each time it "
        "has doubled; a view knows better: obskit.current().may_take(seconds)",
    )
    loop_blocked_s: float = _option(
        _seconds, 0.25, "how long the event loop may be blocked before the code that blocks it is reported"
    )
    share_workers: bool = _option(
        _flag, True, "the workers of one server speak as one: any of them answers /metrics for all"
    )
    state_dir: str | None = _option(
        _directory,
        None,
        "folder in which the workers of one host share what they remember; default: in memory (/dev/shm)",
    )
    echo_request_id: bool = _option(_flag, False, "send the request id back as X-Request-ID")
    instrumentation: bool = _option(
        _flag,
        True,
        "switch on installed opentelemetry-instrumentation-* packages (clients, databases, cache)",
    )
    disabled_instrumentations: tuple[str, ...] = _option(
        _names("instrumentation names such as 'redis'", r"[A-Za-z0-9_.-]+"),
        (),
        "those left switched off, by name",
    )
    otlp_endpoint: str | None = _option(
        _url, None, "base URL of an OTLP receiver; OTEL_EXPORTER_OTLP_ENDPOINT comes after"
    )
    otlp_protocol: str | None = _option(
        _one_of(OTLP_PROTOCOLS), None, "http/protobuf or grpc; OTEL_EXPORTER_OTLP_PROTOCOL comes after"
    )
    otlp_exporter: str = _option(
        _one_of(OTLP_EXPORTERS),
        "lean",
        "what sends spans over OTLP/HTTP: lean (obskit's own, at a fraction of the CPU time; behind a proxy and with "
        "a credential provider the official one takes its place), or official (OpenTelemetry's)",
    )
    metrics_token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if "parse" in option.metadata and value != option.default:
                parsed = _parsed(f"option {option.name!r}", option.metadata["parse"], value)
                object.__setattr__(self, option.name, parsed)  # frozen, and not yet seen by anybody

    @classmethod
    def load(
        cls,
        options: Mapping[str, Any],
        base: Config | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Make the Config of one install.

        `options` are the keyword arguments of `install` (None means: not given). With `base`, the fields of that
        Config stand in for environment and defaults. Raises InstallError naming the option, what was seen and what
        is allowed.
        """
        environ = os.environ if environ is None else environ
        known = {f.name: f for f in fields(cls) if f.name != "metrics_token"}
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise InstallError(f"unknown option {name!r}{hint}; options are: {', '.join(sorted(known))}")
        if base is not None and not isinstance(base, Config):
            raise InstallError(f"option 'config': saw {shown(base)}, expected an obskit.Config")
        values: dict[str, Any] = {}
        for name, spec in known.items():
            if options.get(name) is not None:
                values[name] = options[name]
            elif base is None and (raw := environ.get(f"OBSKIT_{name.upper()}", "")) != "":
                values[name] = _parsed(
                    f"environment variable OBSKIT_{name.upper()}", spec.metadata["parse"], raw
                )
        config = replace(base, **values) if base is not None else cls(**values)
        return _with_token(config, environ)


def _with_token(config: Config, environ: Mapping[str, str]) -> Config:
    # The token comes from the environment alone: an argument would end up in source control.
    if config.metrics_access != "token" or config.metrics_token is not None:
        return config
    token = environ.get("OBSKIT_METRICS_TOKEN", "")
    if not re.fullmatch(r"[\x21-\x7e]{16,512}", token):
        seen = "no value" if not token else f"{len(token)} characters"
        raise InstallError(
            f"option 'metrics_access' is 'token': environment variable OBSKIT_METRICS_TOKEN has {seen}, "
            "expected 16 to 512 visible ASCII characters"
        )
    return replace(config, metrics_token=token)


def _parsed(where: str, parse: Callable[[Any], Any], value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise InstallError(f"{where}: saw {shown(value)}, expected {error}") from None
