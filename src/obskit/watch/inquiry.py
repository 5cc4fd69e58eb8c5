"""Everything in flight, on demand: `obskit doctor --stacks PID` asks a worker, and the watching thread answers.

No signal: those belong to the application and its server. Who asks lays a file beside the worker's own, whose folder
only the same user can write to; the worker looks for it once a second and answers in another file. That works while
all its other threads hang.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from time import perf_counter_ns
from typing import Any

from obskit.plain import path_of
from obskit.watch.scene import Scene
from obskit.watch.stuck import StuckWatch, phase, place

ASK, ANSWER = "ask", "stacks"
MAX_REQUESTS = 1000


def answer(scene: Scene, stuck: StuckWatch) -> None:
    """Answer the question that is there, if there is one."""
    workers = scene.workers
    if not workers.shared or not os.path.exists(workers.path(ASK)):
        return
    with suppress(FileNotFoundError):
        os.unlink(workers.path(ASK))
    path = workers.path(ANSWER)
    opened = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w", encoding="utf-8") as file:
        json.dump(report(scene, stuck), file)
    os.replace(f"{path}.new", path)


def report(scene: Scene, stuck: StuckWatch) -> dict[str, Any]:
    """What this worker is doing: each request in flight, the oldest first, with its stack."""
    now = perf_counter_ns()
    in_flight = sorted(scene.flight.in_flight, key=lambda exchange: exchange.started_ns)
    look = stuck.look()
    requests = []
    for exchange in in_flight[:MAX_REQUESTS]:
        stack = look.stack(exchange)
        requests.append(
            {
                "age_s": round((now - exchange.started_ns) * 1e-9, 3),
                "http_request_method": exchange.method,
                "http_route": scene.pipeline.route_now(exchange),
                "url_path": path_of(exchange, scene.flight.is_secret),
                "phase": phase(exchange),
                "trace_id": exchange.trace_id,
                "request_id": exchange.request_id,
                **place(stack),
                "stack": stack.frames if stack else (),
            }
        )
    return {"pid": os.getpid(), "in_flight": len(in_flight), "requests": requests}
