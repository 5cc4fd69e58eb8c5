"""The same small shop for every framework: what it does wrong is what the suite looks for."""

from __future__ import annotations

import threading
from typing import Any

import obskit

# Both clicks of a double click are here before either goes on.
both = threading.Barrier(2, timeout=10)
started = threading.Event()
go_on = threading.Event()


def place(order: dict[str, Any]) -> dict[str, Any]:
    if order["sku"] == "lamp":
        both.wait()
    with obskit.unit_of_work("checkout", steps=["charged", "saved"]) as work:
        work.done("charged")
        try:
            save(order)
            work.done("saved")
        except OSError:
            pass  # and the customer is told that all went well
    return {"status": "accepted"}


def save(order: dict[str, Any]) -> None:
    if order["sku"] == "unsaved":
        raise OSError("the disk is full")


def stock() -> dict[str, Any]:
    return {"error": "the warehouse does not answer"}


def report() -> dict[str, Any]:
    """Takes until somebody says go on."""
    started.set()
    go_on.wait(10)
    return {"rows": ["x" * 100] * 200}
