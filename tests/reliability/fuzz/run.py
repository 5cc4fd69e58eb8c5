"""Feeds targets: a random loop with a seed, so that what fails can be made again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.reliability.fuzz import parsers, world
from tests.reliability.fuzz.draw import Draw

Target = Callable[[Draw], None]
SIZE = 96

DOORS: dict[str, Callable[[], Target]] = {
    "WSGI app": lambda: world.Wsgi(lambda: world.wsgi_app),
    "ASGI app": lambda: world.Asgi(lambda: world.asgi_app),
    "Flask": lambda: world.Wsgi(world.flask_app),
    "Starlette": lambda: world.Asgi(world.starlette_app),
}
ALL: Mapping[str, Callable[[], Target]] = {**parsers.TARGETS, **DOORS}


class Failed(NamedTuple):
    """One input that broke something."""

    target: str
    data: bytes
    error: BaseException


class Result(NamedTuple):
    """What one target was fed, and what broke."""

    target: str
    inputs: int
    failed: list[Failed]
    took_s: float


def feed(name: str, inputs: int, seed: int, *, most_failures: int = 5) -> Result:
    """Give a target so many inputs; stops early when it has failed often enough."""
    target = ALL[name]()
    numbers = random.Random(f"{seed}{name}")
    failed: list[Failed] = []
    began = time.perf_counter()
    done = 0
    while done < inputs:
        done += 1
        data = numbers.randbytes(numbers.randrange(8, SIZE))
        try:
            target(Draw(data))
        except Exception as error:
            failed.append(Failed(name, data, error))
            if len(failed) >= most_failures:
                break
    return Result(name, done, failed, time.perf_counter() - began)


def chunk(job: tuple[str, int, int]) -> Result:
    """The same in a process of its own: name, inputs, seed."""
    logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
    seen = feed(*job)
    # An exception may not survive the way between processes.
    return seen._replace(
        failed=[one._replace(error=AssertionError(repr(one.error)[:2_000])) for one in seen.failed]
    )
