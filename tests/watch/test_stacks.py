"""Where a request is: in its thread, in a thread of a pool, in its task, or in a task that this one waits for."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest
from asgiref.sync import sync_to_async
from starlette.responses import StreamingResponse

import obskit
from obskit import asgi
from obskit.context import _current
from obskit.exchange import Exchange
from obskit.watch import stacks, tasks, whose
from obskit.watch.stacks import Look, Stack
from obskit.wsgi import WsgiDoor
from tests.support.recording import make_pipeline, talk_wsgi

DEADLINE_S = 10.0
HERE = "tests/watch/test_stacks.py"


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := what()):
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.002)
    return found


# ---- a loop in a thread, and a request in it -----------------------------------------------------------


class Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def begin(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Exchange, Any]:
        """A request whose application is this."""
        exchange = Exchange()
        context = contextvars.copy_context()
        context.run(_current.set, exchange)

        async def begun() -> asyncio.Task[Any]:
            return asyncio.get_running_loop().create_task(work(), name="the request", context=context)

        return exchange, asyncio.run_coroutine_threadsafe(begun(), self.loop).result(DEADLINE_S)

    def look(self, exchange: Exchange) -> Stack | None:
        return Look(self.loop, self.thread.ident or 0).stack(exchange)

    def until_in(self, exchange: Exchange, function: str) -> Stack:
        """Where the request is, once its innermost line of the application is in this function."""
        found: Stack = until(
            # "awaits" alone: it has not begun.
            lambda: (
                (at := self.look(exchange))
                and at.where.endswith(f" in {function}")
                and at.doing != "awaits"
                and at
            )
        )
        return found


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), made.loop).result(DEADLINE_S)
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join(DEADLINE_S)
    made.loop.close()


async def waits() -> None:
    await asyncio.Event().wait()


async def in_a_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:
        pass


async def in_a_queue() -> None:
    await asyncio.Queue[int]().get()


async def in_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def in_an_object() -> None:
    class Odd:
        def __await__(self) -> Any:
            return waits().__await__()

    await Odd()


@pytest.mark.parametrize(
    ("work", "function", "doing"),
    [
        (in_a_lock, "in_a_lock", "awaits asyncio.locks.Lock.acquire"),
        (in_a_queue, "in_a_queue", "awaits asyncio.queues.Queue.get"),
        (in_a_future, "in_a_future", "awaits a Future"),
        (in_an_object, "waits", "awaits asyncio.locks.Event.wait"),
    ],
)
def test_a_task_is_found_with_the_line_and_what_it_awaits(
    loop: Loop, work: Any, function: str, doing: str
) -> None:
    exchange, _ = loop.begin(work)
    stack = loop.until_in(exchange, function)
    file, _, number = stack.where.partition(" in ")[0].rpartition(":")
    source = Path(__file__).read_text().splitlines()
    assert file == HERE
    assert "await" in source[int(number) - 1] or "async with" in source[int(number) - 1]
    assert (stack.doing, stack.runs_in) == (doing, "task the request")


async def by_gather() -> None:
    await asyncio.gather(asyncio.sleep(0), waits())


async def by_wait_for() -> None:
    await asyncio.wait_for(waits(), 60)


async def by_wait() -> None:
    await asyncio.wait([asyncio.ensure_future(waits())])


async def by_shield() -> None:
    await asyncio.shield(waits())


async def by_task() -> None:
    await asyncio.ensure_future(waits())


async def by_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits())


async def by_group_of_anyio() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(waits)


async def by_generator() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        await waits()

    async for _ in items():
        pass


async def by_streaming() -> None:
    async def items() -> AsyncIterator[bytes]:
        yield b"first"
        await waits()

    never: Any = asyncio.Event().wait

    async def send(message: Any) -> None:
        return

    await StreamingResponse(items())({"type": "http", "asgi": {"spec_version": "2.3"}}, never, send)


@pytest.mark.parametrize(
    "work",
    [
        by_gather,
        by_wait_for,
        by_wait,
        by_shield,
        by_task,
        by_group,
        by_group_of_anyio,
        by_generator,
        by_streaming,
    ],
)
def test_a_wait_for_tasks_of_its_own_leads_to_the_line_that_one_of_them_is_at(loop: Loop, work: Any) -> None:
    exchange, _ = loop.begin(work)
    stack = loop.until_in(exchange, "waits")
    assert any(work.__name__ in line for line in stack.frames), "and the way there is shown"
    assert stack.doing == "awaits asyncio.locks.Event.wait"


def test_a_task_of_another_request_is_never_taken_for_its_own(loop: Loop) -> None:
    exchange, task = loop.begin(waits)
    loop.until_in(exchange, "waits")

    async def waits_for_another() -> None:
        await task

    mine, _ = loop.begin(waits_for_another)
    stack = loop.until_in(
        mine,
        f"{test_a_task_of_another_request_is_never_taken_for_its_own.__name__}.<locals>.waits_for_another",
    )
    assert stack.doing == "awaits a Task"


def test_a_task_beside_its_own_is_not_what_a_request_waits_for(loop: Loop) -> None:
    async def beside(deep: int = 20) -> None:
        await (beside(deep - 1) if deep else asyncio.sleep(60))

    async def own() -> None:
        kept = [asyncio.ensure_future(beside()) for _ in range(3)]
        await in_a_future()
        await kept[0]

    known: dict[str, Any] = {"own": own}
    exec(compile("async def door(): await own()", asgi.__file__, "exec"), known)
    exchange, _ = loop.begin(known["door"])
    assert loop.until_in(exchange, "in_a_future").frames[0].endswith(".own"), "cut at the door"


# ---- threads of pools ----------------------------------------------------------------------------------


class Held:
    """Synchronous code that a test lets go of."""

    def __init__(self) -> None:
        self.gone = threading.Event()

    def __call__(self) -> None:
        self.held()

    def held(self) -> None:
        self.gone.wait(DEADLINE_S)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.gone.set()


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(anyio.to_thread.run_sync, id="anyio"),
        pytest.param(asyncio.to_thread, id="asyncio"),
        pytest.param(lambda held: sync_to_async(held)(), id="asgiref"),
        pytest.param(lambda held: sync_to_async(held, thread_sensitive=False)(), id="asgiref-any-thread"),
        pytest.param(
            lambda held: asyncio.get_running_loop().run_in_executor(None, held), id="without-its-context"
        ),
        pytest.param(
            lambda held: asyncio.get_running_loop().run_in_executor(
                None, partial(contextvars.copy_context().run, held)
            ),
            id="with-its-context",
        ),
    ],
)
def test_synchronous_code_is_found_in_the_thread_that_runs_it(loop: Loop, held: Held, call: Any) -> None:
    async def work() -> None:
        await call(held)

    exchange, _ = loop.begin(work)
    other, _ = loop.begin(waits)
    stack = loop.until_in(exchange, "Held.held")
    assert stack.runs_in.startswith("thread ")
    assert stack.doing == "in threading.Condition.wait"
    assert not any("WorkerThread" in line or "_WorkItem" in line for line in stack.frames)
    assert loop.until_in(other, "waits").runs_in == "task the request"
    held.gone.set()


def test_code_that_blocks_the_loop_is_found_on_its_thread(loop: Loop, held: Held) -> None:
    async def work() -> None:
        held()

    exchange = Exchange()

    async def begin() -> None:
        _current.set(exchange)
        asyncio.get_running_loop().create_task(work())

    asyncio.run_coroutine_threadsafe(begin(), loop.loop)
    stack = loop.until_in(exchange, "Held.held")
    assert stack.runs_in == f"thread {loop.thread.name}"
    held.gone.set()


# ---- WSGI ----------------------------------------------------------------------------------------------


def test_a_request_under_wsgi_is_found_in_its_thread_and_not_when_that_has_gone_on(held: Held) -> None:
    pipeline, _ = make_pipeline()
    exchanges: list[Exchange] = []

    def deep(left: int) -> None:
        deep(left - 1) if left else held()

    def app(environ: Any, start_response: Any) -> Any:
        exchange = obskit.current()
        assert isinstance(exchange, Exchange)
        exchange.thread_id = threading.get_ident()
        exchanges.append(exchange)
        deep(500)
        start_response("200 OK", [])
        return [b""]

    thread = threading.Thread(target=lambda: talk_wsgi(WsgiDoor(app, pipeline)), name="one of the server")
    thread.start()
    (exchange,) = until(lambda: exchanges)
    stack = until(lambda: (at := Look(None).stack(exchange)) and "Held.held" in at.where and at)
    assert stack.runs_in == "thread one of the server"
    assert stack.frames[0].endswith(".app"), "without the server and the door"
    stranger = Exchange()
    stranger.thread_id = exchange.thread_id
    assert Look(None).stack(stranger) is None
    held.gone.set()
    thread.join(DEADLINE_S)
    assert Look(None).stack(exchange) is None, "the thread is gone"


def test_a_server_that_waits_for_its_client_is_no_line_of_the_application(held: Held) -> None:
    exchange = Exchange()
    thread = threading.Thread(target=held)
    thread.start()
    exchange.thread_id = thread.ident or 0
    stack = until(lambda: (at := Look(None).stack(exchange)) and at.doing.endswith("wait") and at)
    assert stack.where == ""
    exchange.request = {"type": "http"}
    assert Look(None).stack(exchange) is None, "trio: nothing is known of its tasks, and nothing is made up"
    held.gone.set()
    thread.join(DEADLINE_S)


# ---- what is read of frames ----------------------------------------------------------------------------


class Proxy:
    """As werkzeug's: whatever is asked of it raises outside of a request."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")


def frame_of(file: str, **known: Any) -> FrameType:
    """A frame of code in this file, with these variables."""
    names = ", ".join(known) or "_=0"
    space: dict[str, Any] = {"sys": sys}
    exec(compile(f"def f({names}): return sys._getframe()", file, "exec"), space)
    frame: FrameType = space["f"](**known)
    return frame


def test_the_request_is_read_from_frames_of_libraries_alone() -> None:
    exchange = Exchange()
    library = f"{threading.__file__}"
    scope = {stacks.MARK: exchange}
    for known in (
        {"scope": scope},
        {"request": type("Request", (), {"scope": scope})()},
        {"request": type("Request", (), {"environ": scope})()},
        {"environ": scope},
    ):
        assert stacks._request_in(frame_of(library, **known)) is exchange
        assert stacks._request_in(frame_of(__file__, **known)) is None, (
            "the application's variables are its own"
        )
    assert stacks._request_in(frame_of(library, request=Proxy(), scope=5)) is None


def test_no_value_of_a_variable_is_in_what_is_told(loop: Loop) -> None:
    secret = "4111-1111"

    async def work(card: str) -> None:
        number = card
        await waits()
        del number

    exchange, _ = loop.begin(partial(work, secret))
    stack = loop.until_in(exchange, "waits")
    assert secret not in repr(stack)


def test_evidence_keeps_the_innermost_lines() -> None:
    def deep(left: int) -> Stack:
        if left:
            return deep(left - 1)
        return stacks.stack_in(stacks.outermost_first(sys._getframe()), "thread x")

    stack = deep(50)
    evidence = stack.evidence()
    assert len(stack.frames) > 50
    assert evidence["stack"] == stack.frames[-16:]
    assert evidence["where"] == stack.frames[-1]


# ---- whose code it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (__file__, True),
        ("/srv/shop/app/orders.py", True),
        ("/srv/shop/templates/page.html", True),
        (str(Path(obskit.__file__).with_name("demo") / "services" / "flask" / "app.py"), True),
        (threading.__file__, False),
        (anyio.__file__, False),
        ("/opt/other/lib/python3.12/site-packages/x.py", False),
        ("/usr/lib/python3/dist-packages/x.py", False),
        (obskit.__file__, False),
        ("<frozen importlib._bootstrap>", False),
        ("<string>", False),
        ("uvloop/loop.pyx", False),
    ],
)
def test_what_is_the_applications_own(file: str, expected: bool) -> None:
    assert whose.is_application(file) is expected


def test_a_folder_that_is_gone_hinders_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert whose.shown.__wrapped__("/nowhere/x.py") == "/nowhere/x.py"


class Far:
    """Functions without a frame of their own, called in different ways."""

    def __init__(self, gone: threading.Lock) -> None:
        self.lock = gone

    def by_name(self) -> None:
        acquire = self.lock.acquire
        acquire()

    def by_attribute(self) -> None:
        self.lock.acquire()

    def by_result(self) -> None:
        self.found().acquire(
            True,
            timeout=60,
        )

    def by_with(self) -> None:
        with self.lock:
            pass

    def found(self) -> threading.Lock:
        return self.lock


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("by_name", "in acquire"),
        ("by_attribute", "in self.lock.acquire"),
        ("by_result", "in ….acquire"),
        ("by_with", "runs this line"),
    ],
)
def test_a_function_without_a_frame_is_named_as_the_source_does(method: str, expected: str) -> None:
    lock = threading.Lock()
    with lock:
        thread = threading.Thread(target=getattr(Far(lock), method))
        thread.start()

        def innermost() -> Stack | None:
            frame = sys._current_frames().get(thread.ident or 0)
            if frame is None or not frame.f_code.co_qualname.endswith(method):
                return None
            stack = stacks.stack_in([frame], "")
            return stack if stack.doing == expected else None

        assert until(innermost).where.endswith(f"Far.{method}")
    thread.join(DEADLINE_S)


# ---- what may be missing -------------------------------------------------------------------------------


def test_a_loop_that_changes_while_it_is_looked_at_is_looked_at_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = asyncio.all_tasks

    def changing(of: Any = None) -> Any:
        asked.append(of)
        if len(asked) < 3:
            raise RuntimeError("Set changed size during iteration")
        return real(of)

    monkeypatch.setattr(asyncio, "all_tasks", changing)
    exchange, _ = loop.begin(waits)
    assert loop.until_in(exchange, "waits")
    assert len(asked) >= 3


def test_the_context_of_a_task_is_found_on_every_python(loop: Loop) -> None:
    exchange, task = loop.begin(waits)

    class Newer:
        def get_context(self) -> contextvars.Context:
            return contextvars.copy_context()

    found = tasks.context_of(task)
    assert found is not None
    assert found[_current] is exchange
    assert tasks.context_of(Newer()) is not None  # type: ignore[arg-type]
