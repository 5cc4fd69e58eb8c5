"""The calls that are not ours to fail: those into the application and the server, and what has nothing behind it."""

from __future__ import annotations

from tests.reliability.faults.hook import Site

# Calls into the application or the server, by file and by what is called: an error of theirs is theirs, and has to
# pass through.
THEIRS: dict[tuple[str, str], str] = {
    ("wsgi.py", "self.app"): "the application",
    ("wsgi.py", "start_response"): "the server's start_response()",
    ("wsgi.py", "self._start_response"): "the server's start_response()",
    ("wsgi.py", "write"): "the server's write()",
    ("wsgi.py", "next"): "the application's next part",
    ("wsgi.py", "iter"): "the application's body begins",
    ("wsgi.py", "app_close"): "the application's close()",
    ("wsgi.py", "getattr"): "an attribute of the application's body",
    ("wsgi_input.py", "self._input.read"): "the server's wsgi.input",
    ("wsgi_input.py", "self._input.readline"): "the server's wsgi.input",
    ("wsgi_input.py", "self._input.readlines"): "the server's wsgi.input",
    ("wsgi_input.py", "next"): "the server's wsgi.input",
    ("context.py", "bool"): "the application's condition",
    ("context.py", "make"): "a guard of its own: it makes a logger, or hands out one that is there",
    ("asgi.py", "self._lifespan.answer"): "the door speaks for an application that knows no lifespan",
    ("wsgi_input.py", "iter"): "the server's wsgi.input",
    ("asgi.py", "self.app"): "the application",
    ("asgi.py", "self._send"): "the server's send()",
    ("asgi.py", "send"): "the server's send()",
    ("asgi_lifespan.py", "send"): "the server's send()",
    ("asgi_lifespan.py", "receive"): "the server's receive()",
    ("asgi.py", "self._receive"): "the server's receive()",
    ("asgi.py", "receive"): "the server's receive()",
    ("presence.py", "self._receive"): "the server's receive()",
    ("adapters/flask.py", "door"): "the door",
    ("adapters/flask.py", "served"): "the application",
    ("adapters/flask.py", "known"): "the application",
    ("adapters/_django_sessions.py", "process_request"): "the framework's middleware",
    ("adapters/_django_sessions.py", "super"): "the framework's session",
    ("adapters/_django_sessions.py", "super().load"): "the framework's session",
    ("adapters/django.py", "get_response"): "the application",
    ("adapters/django.py", "get_response_async"): "the application",
    ("adapters/starlette.py", "build"): "the framework builds its stack",
    ("adapters/_starlette_sessions.py", "build"): "the framework builds its stack",
    ("adapters/_starlette_sessions.py", "unsign"): "the framework reads its cookie",
}
# Functions that promise to raise nothing, and whose whole body is one guard: each call in it is a site of its own.
GUARDED: dict[str, frozenset[str]] = {
    "adapters/django.py": frozenset({"_note_route"}),
    "adapters/_django_sessions.py": frozenset({"_before_view", "_found_nothing", "_ends"}),
    "adapters/_starlette_sessions.py": frozenset({"_note"}),
    "adapters/starlette.py": frozenset({"wrap"}),
}
# Whole functions that only ask the application's own object: without its answer there is none.
DELEGATES = frozenset({"__getattr__", "__eq__", "__bytes__", "__len__", "__getitem__"})
_DELEGATING = frozenset({"wsgi.py", "asgi.py", "wsgi_input.py"})


def reason(site: Site) -> str | None:
    """Why this site is not armed; None if it is."""
    theirs = THEIRS.get((site.file, site.callee))
    if theirs is not None:
        return theirs
    if site.file in _DELEGATING and site.inside.rpartition(".")[2] in DELEGATES:
        return "an attribute of the application's own object"
    if site.callee in GUARDED.get(site.file, ()):
        return "a guard: its whole body stands under one"
    if site.callee.endswith((".failed", ".lost", "._failed", "._broke")) or site.callee in (
        "_failed",
        "failed",
    ):
        # The last thing behind every guard. Its own calls are sites; that it can be called at all is the premise:
        # the frame it needs was free a moment ago, when the guarded call had it.
        return "the guard itself"
    return None


def passes(site: Site, ending: str, *, framework: bool) -> bool:
    """Whether what ends a process or a task has somebody to pass through to from here."""
    if site.file == "watch/gc_pauses.py" or site.inside.endswith(".__del__"):
        return False  # the interpreter calls it, reports what is raised, and goes on
    if framework and site.file == "adapters/_django_sessions.py":
        return False  # under ASGI a thread runs it, and the framework carries the end of that to nobody
    if ending == "CancelledError":
        # A callback of the loop cancels no task; and a framework takes one in its tasks for its own cancellation.
        return not framework and site.inside not in ("_Listener._moment_passed", "_Listener._begin")
    return True


def may_hang(site: Site) -> bool:
    """Whether a call that hangs here is to be seen by nobody.

    What goes to standard output goes at once where that is a file on a disk: whoever logs to a disk that hangs waits
    for it. A pipe whose reader has stopped is another matter, and has tests of its own. To map memory is no input or
    output: the kernel does that when a page is first touched.
    """
    return site.file not in ("signals/outlet.py", "signals/writer.py") and site.callee != "mmap.mmap"
