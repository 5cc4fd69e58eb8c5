"""A process may fork while another of its threads holds a lock of ours: the child must not wait for that thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.ports import free_port

# Holds locks in a thread, forks, and lets the child do all that a worker does. The alarm is what a hang ends with.
PROGRAM = """
import gc, json, os, signal, socket, sys, threading
import obskit
from flask import Flask

LOCKS = (type(threading.Lock()), type(threading.RLock()))
every = json.loads(sys.argv[1])
listening = socket.create_server(("127.0.0.1", 0))
app = Flask("forking")
log = obskit.get_logger()


@app.get("/")
def index():
    log.info("asked")
    obskit.invariant(False, "never")
    return "ok"


obskit.install(app, instrumentation=False)


def work():
    client = app.test_client()
    assert client.get("/").status_code == 200
    assert client.post("/", data={"a": 1}).status_code == 405
    page = client.get("/metrics", environ_overrides={"REMOTE_ADDR": "127.0.0.1"})
    assert page.status_code == 200, page.status


def lock_of(found):
    if isinstance(found, threading.Event):
        found = found._cond
    if isinstance(found, threading.Condition):
        found = found._lock
    return found if isinstance(found, LOCKS) else None


def locks():
    for name, module in list(sys.modules.items()):
        if name.startswith("obskit"):
            for key, value in list(vars(module).items()):
                yield f"{name}.{key}", lock_of(value)
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith("obskit"):
            slots = [slot for of in kind.__mro__ for slot in getattr(of, "__slots__", ())]
            for key in {*getattr(one, "__dict__", ()), *slots}:
                yield f"{kind.__module__}.{kind.__qualname__}.{key}", lock_of(getattr(one, key, None))


work()
found = {id(lock): (name, lock) for name, lock in locks() if lock is not None}
groups = [list(found.values())] if not every else [[one] for one in found.values()]
hung = []
for group in groups:
    holding, done = threading.Event(), threading.Event()

    def hold():
        for name, lock in group:
            assert lock.acquire(timeout=5), name
        holding.set()
        done.wait()
        for _, lock in group:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(8)
        work()
        obskit.shutdown(0.2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    done.set()
    holder.join()
    if status:
        hung.append([status, *(name for name, _ in group)])
work()
obskit.shutdown(0.2)
with open(sys.argv[2], "w") as file:
    json.dump({"locks": sorted(name for name, _ in found.values()), "hung": hung}, file)
os._exit(0)
"""


def forked(tmp_path: Path, every: bool) -> dict[str, Any]:
    """What became of children forked while all locks were held; `every`: while each was, one child after the other."""
    result = tmp_path / "result"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(every), str(result)],
        capture_output=True,
        text=True,
        timeout=200,
        env={
            **os.environ,
            "OBSKIT_STATE_DIR": str(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        },
    )
    assert result.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(tmp_path: Path) -> None:
    found = forked(tmp_path, every=False)
    assert len(found["locks"]) >= 6, found
    assert "obskit.signals.cells.Store.lock" in found["locks"]
    hung = found["hung"]
    # Which of them is to blame; it takes the time of a hang for each that is.
    alone = forked(tmp_path, every=True)["hung"] if hung else []
    assert (hung, alone) == ([], [])
