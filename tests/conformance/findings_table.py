"""Where each finding is seen: a table of finding, server and kind of app, made from the cases themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .cases import all_cases
from .model import Case
from .targets import TARGETS, Target

# By column: the servers it stands for.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", "uvicorn-uvloop", "uvicorn-h11"),
    "hypercorn": ("hypercorn",),
    "granian": ("granian",),
    "gunicorn, uvicorn worker": ("gunicorn-uvicorn",),
    "gunicorn sync": ("gunicorn-sync",),
    "gunicorn gthread": ("gunicorn-gthread",),
    "waitress": ("waitress",),
}
# What the suite cannot bring about on every target, and where it is brought about instead.
ELSEWHERE: Mapping[str, str] = {
    "session_lost": "A matter of the framework, on every server alike: Django's sessions (WSGI and ASGI), Flask's own, "
    "and Starlette's SessionMiddleware, under FastAPI too. A plain WSGI or ASGI app has no session that obskit knows.",
    "timeout": "gunicorn's sync worker alone raises into the app when its time is over. The other servers kill the "
    "worker, cut the connection without telling the app, or set no limit.",
    "worker_died": "Wherever a worker can die and a process of the same service can look: gunicorn (sync, gthread, "
    "uvicorn worker), uvicorn, granian and hypercorn; where there is one process alone, at its next start.",
    "request_stuck": "A matter of the application's code, on every server alike: threads under WSGI, tasks and thread "
    "pools under asyncio and uvloop.",
    "event_loop_blocked": "Every ASGI server that runs the application on asyncio or uvloop. WSGI has no loop.",
    "cancelled": "Any ASGI server that cancels the task while its client waits, as on a forced stop; under WSGI a "
    "worker that has to exit in the middle of a request.",
}
YES = "yes"
PREFACE = """\
Each row is a case of `tests/conformance/`, run with a real client on these servers over seven kinds of app: FastAPI,
Starlette, Django under ASGI and under WSGI, Flask, and a plain callable of either interface. *yes*: log line, metric
and span event say so, once. *no*: it does not happen there. *not knowable*: it happens, and the server tells nobody.
A kind of app before the answer limits it to that kind. What is behind it: [servers.md](servers.md).
"""


def rows() -> list[tuple[str, Case]]:
    """The cases that bring a finding about somewhere, by finding."""
    return sorted(
        ((case.shows, case) for case in all_cases() if case.shows and not is_near_miss(case)),
        key=lambda row: row[0],
    )


def is_near_miss(case: Case) -> bool:
    """Whether the case only looks like what it is tagged with: on no target is the finding expected."""
    return not any(_seen(case, target) for target in TARGETS if case.applies_to(target))


def near_misses() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in all_cases():
        if case.shows and is_near_miss(case):
            found.setdefault(case.shows, []).append(_words(case))
    return dict(sorted(found.items()))


def table() -> str:
    """The table, what it leaves silent, and the reasons, in Markdown."""
    reasons: dict[str, int] = {}
    lines = [
        PREFACE,
        f"| finding | brought about by | {' | '.join(COLUMNS)} |",
        f"|---|---|{'---|' * len(COLUMNS)}",
    ]
    for finding, case in rows():
        cells = [_cell(case, servers, reasons) for servers in COLUMNS.values()]
        lines.append(f"| `{finding}` | {_words(case)} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason[0].upper()}{reason[1:]}." for reason, number in reasons.items())]
    lines += ["", "What those cases cannot show on every server:", ""]
    lines += [f"- `{finding}`: {where}" for finding, where in ELSEWHERE.items()]
    lines += ["", "What looks alike and stays silent, on every server and kind of app:", ""]
    lines += [f"- `{finding}`: {', '.join(names)}" for finding, names in near_misses().items()]
    return "\n".join(lines) + "\n"


def _cell(case: Case, servers: Iterable[str], reasons: dict[str, int]) -> str:
    """What holds for most kinds of app on these servers, and for which it does not."""
    by_answer: dict[str, list[str]] = {}
    for target in TARGETS:
        if target.server in servers:
            kinds = by_answer.setdefault(_answer(case, target, reasons), [])
            if target.kind not in kinds:
                kinds.append(target.kind)
    first, *others = sorted(by_answer.items(), key=lambda item: (not item[0].startswith(YES), -len(item[1])))
    if not others:
        return first[0]
    if len(first[1]) == 1:
        return "; ".join(f"{', '.join(kinds)}: {answer}" for answer, kinds in (first, *others))
    return "; ".join([first[0], *(f"{', '.join(kinds)}: {answer}" for answer, kinds in others)])


def _answer(case: Case, target: Target, reasons: dict[str, int]) -> str:
    if not case.applies_to(target):
        return f"no [{_number(_why_not_for(case, target), reasons)}]"
    if _seen(case, target):
        # Seen, but not quite as elsewhere: the evidence says something else.
        told = [reason for reason, changes in _differences(case, target) if changes == {"checks"}]
        return f"{YES} [{_number(told[-1], reasons)}]" if told else YES
    expect = case.expected(target)
    # What had another end than was meant did not happen there; what looks whole is hidden from us.
    hidden = not expect.telemetry or expect.outcome == "completed"
    return f"{'not knowable' if hidden else 'no'} [{_number(_why_unseen(case, target), reasons)}]"


def _seen(case: Case, target: Target) -> bool:
    expect = case.expected(target)
    return expect.telemetry and case.shows in expect.expected_findings()


def _why_not_for(case: Case, target: Target) -> str:
    return next(case.not_for[key] for key in target.keys if key in case.not_for)


def _why_unseen(case: Case, target: Target) -> str:
    """The reason of the last difference that applies: it has the last word on what is expected."""
    reasons = [reason for reason, _ in _differences(case, target)]
    assert reasons, f"{case.name} on {target.id}: not seen, and no reason given"
    return reasons[-1]


def _differences(case: Case, target: Target) -> list[tuple[str, set[str]]]:
    """Reason, and what it changes, of each difference that applies."""
    found = [case.differs[key] for key in target.keys if key in case.differs]
    return [(difference.reason, set(difference.changes)) for difference in found]


def _number(reason: str, reasons: dict[str, int]) -> int:
    return reasons.setdefault(reason, len(reasons) + 1)


def _words(case: Case) -> str:
    return case.name.replace("_", " ")
