"""One record in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from obskit.asgi import AsgiDoor
from obskit.config import Config
from obskit.detectors import shipped
from obskit.exchange import Evidence, Exchange
from obskit.findings import Detector, Judge, Setting
from obskit.pipeline import Pipeline
from obskit.wsgi import WsgiDoor
from tests.support.recording import Notes, call_asgi, make_pipeline, talk_wsgi

Found = dict[str, Evidence]


def setting(**options: Any) -> Setting:
    """What a detector with a memory is made with; an error of its own fails the test."""

    def failed(stage: str, error: BaseException) -> None:
        raise AssertionError(f"{stage} failed") from error

    return Setting(Config(**options), "shop", failed)


def judging(*names: str, **options: Any) -> tuple[Pipeline, Notes]:
    """A pipeline with these detectors; without names with all that have no memory."""
    chosen: list[tuple[Detector, Judge | None]] = []
    for one in shipped():
        if one.name in names or (not names and one.make is None):
            chosen.append((one, one.make(setting(**options)) if one.make is not None else None))
    assert len(chosen) >= len(names)
    return make_pipeline(detectors=chosen, **options)


def found_in(exchange: Exchange, notes: Notes) -> Found:
    assert notes.stages == []
    assert len({one.finding for one in exchange.findings}) == len(exchange.findings)
    return {one.finding: one.evidence for one in exchange.findings}


@pytest.fixture
def detect() -> Callable[..., Found]:
    """The findings of the detectors without a memory in a record with these fields."""

    def call(method: str = "GET", protocol: str = "http", **fields: Any) -> Found:
        pipeline, notes = judging()
        exchange = Exchange(protocol, method, "/orders/1")
        pipeline.open(exchange, None)
        for name, value in fields.items():
            setattr(exchange, name, value)
        pipeline.close(exchange)
        return found_in(exchange, notes)

    return call


@pytest.fixture
def over_asgi() -> Callable[..., Found]:
    """The same, in the record that one call of an ASGI application leaves."""

    def call(app: Any, *arguments: Any, names: Iterable[str] = (), **more: Any) -> Found:
        pipeline, notes = judging(*names)
        call_asgi(AsgiDoor(app, pipeline), *arguments, **more)
        return found_in(notes.record, notes)

    return call


@pytest.fixture
def over_wsgi() -> Callable[..., Found]:
    """The same, in the record that one call of a WSGI application leaves."""

    def call(app: Any, *arguments: Any, names: Iterable[str] = (), **more: Any) -> Found:
        pipeline, notes = judging(*names)
        talk_wsgi(WsgiDoor(app, pipeline), *arguments, **more)
        return found_in(notes.record, notes)

    return call
