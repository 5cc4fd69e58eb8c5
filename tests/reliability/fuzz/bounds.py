"""Names that come from outside, each another one: paths, hosts, methods, classes, keys. What is kept stays bounded.

The series of each metric are counted as a scrape shows them, memory as the kernel does, and besides every container
that can be reached from the install is measured twice: what has grown in between is a leak, whatever it is called.
"""

from __future__ import annotations

import functools
import gc
import random
import sys
import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client.exposition import generate_latest

import obskit
from obskit.signals.cells import OVERFLOW_SETS
from tests.reliability.fuzz.world import Twin, talk_asgi, talk_wsgi
from tests.support.exposition import parse
from tests.support.recording import make_environ, websocket_scope

MAX_SERIES = 2_000
# What a container may gain after the first part: memories that fill up to their own bound show here, too.
SLACK = 64
# Memories that are emptied when they are full, which may happen at any time.
CEILINGS = {"clean": 1_024, "_Remembered": 1_024}


class Seen(NamedTuple):
    """What is there after so many requests."""

    requests: int
    series: dict[str, int]
    rss: int
    containers: dict[int, tuple[str, int]]


class Bomb:
    """An app that does with each request what no app should: it names a route, a class, a key after what it is sent."""

    def __init__(self, seed: int = 1, max_series: int = MAX_SERIES) -> None:
        self._numbers = random.Random(seed)
        self.max_series = max_series
        detectors = [
            obskit.Detector(name=f"own_{n}", help="Test.", why="Test.", judge=self._judge(n))
            for n in range(50)
        ]
        self.wsgi = Twin(self._app, detectors=detectors, max_series=max_series, interface="wsgi")
        self.asgi = Twin(self._asgi_app, max_series=max_series, interface="asgi")
        self.done = 0

    @staticmethod
    def _judge(number: int) -> Any:
        # One in so many, so that each finding meets many routes.
        return lambda exchange: (
            {"key": exchange.url_path} if hash(exchange.url_path) % 100 == number else None
        )

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        word = environ["PATH_INFO"]
        exchange = obskit.current()
        assert exchange is not None
        if len(word) % 3:
            exchange.name_route(word)
        obskit.bind(**{f"key_{word[1:12]}": word})
        obskit.invariant(len(word) % 7, f"invariant {word[:20]}", path=word)
        number = self._numbers.randrange(1_000)
        if number < 500:
            raise type(f"E{word[1:12]}", (Exception,), {})(word)
        start_response(f"{100 + number} Whatever", [("Content-Type", "application/json")])
        return [b"[]" if number % 2 else b'{"error": "' + word.encode() + b'"}']

    @staticmethod
    async def _asgi_app(scope: Any, receive: Any, send: Any) -> None:
        exchange = obskit.current()
        assert exchange is not None
        exchange.name_route(scope["path"])
        await receive()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        status = 200 + len(scope["path"]) % 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    def _word(self) -> str:
        return "/" + self._numbers.randbytes(self._numbers.randrange(4, 60)).hex()

    def send(self, requests: int) -> None:
        """So many requests, three in eight to the ASGI app."""
        numbers = self._numbers
        for _ in range(requests):
            word = self._word()
            kind = numbers.randrange(8)
            if kind < 5:
                environ = make_environ(
                    word,
                    numbers.choice(("GET", "POST", "HEAD", word[1:9].upper())),
                    HTTP_HOST=word,
                    HTTP_USER_AGENT=word * 2,
                    HTTP_X_REQUEST_ID=word[1:],
                    HTTP_COOKIE=f"session={word}",
                    REMOTE_ADDR=word[1:16],
                    HTTP_IDEMPOTENCY_KEY=word,
                )
                talk_wsgi(self.wsgi.app, environ)
            else:
                scope = websocket_scope(word)
                if kind < 7:
                    scope = {**scope, "type": "http", "method": word[1:6]}
                talk_asgi(self.asgi.app, scope)
            self.wsgi.kept.lines.clear()
            self.asgi.kept.lines.clear()
        self.done += requests

    def look(self) -> Seen:
        """What is there now. Memory first: to look takes some, too."""
        gc.collect()
        memory = rss()
        series: dict[str, int] = {}
        for _, store in self._stores():
            for name, family in store.families.items():
                if family.metric.labels and family.metric.across == "sum":
                    series[name] = max(series.get(name, 0), len(family.series))
        found = dict(containers([self.wsgi.pipeline, self.asgi.pipeline, *_modules()]))
        return Seen(self.done, series, memory, found)

    def _stores(self) -> Iterator[tuple[Any, Any]]:
        for twin in (self.wsgi, self.asgi):
            metrics: Any = twin.pipeline._metrics
            yield metrics.registry, metrics.store

    def lies(self) -> list[str]:
        """What obskit_metric_series and _limit say that is not so, on the page of a scrape."""
        found = []
        for registry, store in self._stores():
            page = parse(generate_latest(registry).decode())
            limits = set(page["obskit_metric_series_limit"].values())
            if limits != {self.max_series}:
                found.append(f"limits {limits}")
            for labels, told in page["obskit_metric_series"].items():
                name = dict(labels)["metric"]
                if store.families[name].metric.across == "sum" and told != len(store.families[name].series):
                    found.append(f"{name}: told {told}, is {len(store.families[name].series)}")
        return found


def rss() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * 4096


def _modules() -> Iterator[Any]:
    for name, module in list(sys.modules.items()):
        if name.startswith("obskit"):
            yield vars(module)


_OPAQUE = (types.ModuleType, type, types.FrameType, str, bytes, int, float)
_CACHE = type(functools.lru_cache(lambda: None))


def containers(roots: Sequence[Any]) -> Iterator[tuple[int, tuple[str, int]]]:
    """Everything with a length that can be reached from here through objects of obskit and containers."""
    seen: set[int] = {id(root) for root in roots}
    left: deque[tuple[str, Any]] = deque((type(root).__name__, root) for root in roots)
    while left:
        name, one = left.popleft()
        if isinstance(one, _CACHE):
            # One that knows its bound may fill up; one without shows itself.
            known = one.cache_info()
            yield id(one), (f"{name} {one.__qualname__}", known.currsize if known.maxsize is None else 0)
        elif isinstance(one, dict | list | set | deque):
            yield id(one), (name, len(one))
        for part, inner in () if isinstance(one, _CACHE) else _inside(one):
            kind = type(inner)
            ours = kind.__module__.startswith("obskit")
            if id(inner) in seen or issubclass(kind, _OPAQUE) or not (ours or issubclass(kind, _LED_THROUGH)):
                continue
            seen.add(id(inner))
            left.append((kind.__qualname__ if ours else f"{name}{part}", inner))


_LED_THROUGH = (
    dict,
    list,
    set,
    tuple,
    deque,
    frozenset,
    types.FunctionType,
    types.CellType,
    types.MethodType,
    _CACHE,
)


def _inside(one: Any) -> Iterator[tuple[str, Any]]:
    if type(one) is dict:
        yield from ((f".{key}" if isinstance(key, str) else "[]", inner) for key, inner in list(one.items()))
        yield from (("'s key", key) for key in list(one))
        return
    for inner in gc.get_referents(one):
        yield (
            next(
                (
                    f".{slot}"
                    for slot in getattr(type(one), "__slots__", ())
                    if getattr(one, slot, None) is inner
                ),
                "",
            ),
            inner,
        )


def grown(before: Seen, after: Seen) -> list[str]:
    """What kept more after than before."""
    found = []
    for key, (name, size) in after.containers.items():
        known = before.containers.get(key)
        if known is not None and size > max(
            known[1] + SLACK, next((CEILINGS[key] for key in CEILINGS if name.endswith(key)), 0)
        ):
            found.append(f"{name}: {known[1]} → {size}")
    return found


def check(before: Seen, after: Seen, max_series: int = MAX_SERIES) -> list[str]:
    """Every breach of a bound, as a sentence."""
    breaches = [
        f"{name} has {count} series"
        for name, count in after.series.items()
        if count > max_series + OVERFLOW_SETS + 1
    ]
    # Past the limit there may still come sets of the overflow, which are few.
    breaches += [
        f"{name}: {before.series[name]} series after {before.requests}, {count} after {after.requests} requests"
        for name, count in after.series.items()
        if count != before.series[name] < max_series
    ]
    return breaches + grown(before, after)


def blow_up(seed: int, names: int) -> tuple[Seen, Seen, list[str]]:
    """What is there after ten thousand requests and after all of them, and what is wrong; in a new process, please."""
    first = min(10_000, names // 2)
    bomb = Bomb(seed)
    bomb.send(first)
    before = bomb.look()
    bomb.send(names - first)
    after = bomb.look()
    failures = bomb.wsgi.failed_stages() | bomb.asgi.failed_stages()
    broken = check(before, after) + bomb.lies()
    return before, after, broken + ([f"obskit failed: {failures}"] if failures else [])
