"""Four independent accounts of the same requests, and whether they agree: what the clients saw, who came into the
application, what was counted, what was logged."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.torture.visitors import ANSWERED, CUT, REFUSED, trace_of

Line = dict[str, Any]


class Claim(NamedTuple):
    """One thing that must hold, and the figures it was decided by."""

    what: str
    held: bool
    figures: str


@dataclass
class Books:
    """What is known of one server's run."""

    fates: dict[str, str]
    """By request id, what its client saw."""
    entered: list[str]
    """Ids of the requests that came into the application, as it wrote them down itself."""
    lines: dict[str, list[Line]]
    """Canonical lines by request id."""
    died: dict[str, list[Line]]
    """worker_died lines by request id."""
    counted: float
    """Requests by the duration histogram's count, over all series."""
    lost: float
    """obskit_requests_lost_total, over all series."""
    exits: dict[str, float] = field(default_factory=dict)
    """obskit_worker_exits_total by reason."""
    wrong: list[str] = field(default_factory=list)


def read_lines(path: Path) -> tuple[dict[str, list[Line]], dict[str, list[Line]]]:
    """Canonical lines and worker_died lines of a log, by request id."""
    canonical: defaultdict[str, list[Line]] = defaultdict(list)
    died: defaultdict[str, list[Line]] = defaultdict(list)
    with path.open(encoding="utf-8", errors="replace") as log:
        for raw in log:
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if not isinstance(line, dict):
                continue
            if line.get("event") == "http.request":
                canonical[line["request_id"]].append(line)
            elif line.get("finding") == "worker_died":
                died[line["request_id"]].append(line)
    return dict(canonical), dict(died)


def claims(books: Books) -> list[Claim]:
    """What must hold of the requests of one run."""
    answered = {one for one, fate in books.fates.items() if fate == ANSWERED}
    logged, died, entered = set(books.lines), set(books.died), set(books.entered)
    # Their answer was on its way when the worker died: they are counted by who buried it.
    on_their_way = {one for one in died if any(line.get("phase") == "answering" for line in books.died[one])}
    known = logged | on_their_way
    cut = entered - logged
    named = {one for one in cut if _named(books.died.get(one, []), one)}
    died_lines = sum(len(lines) for lines in books.died.values())
    more = Counter({one: len(lines) for one, lines in books.lines.items() if len(lines) > 1})
    foreign = (logged | died | entered) - set(books.fates)
    return [
        Claim(
            "what the clients saw answered is counted",
            answered <= known and books.counted == len(known),
            f"{len(answered & known)} of {len(answered)} answered; counted {books.counted:.0f}, logged or on their "
            f"way {len(known)} ({len(on_their_way)} on their way)" + _some(answered - known),
        ),
        Claim(
            "what a death cut off is named with its trace id",
            named == cut,
            f"{len(named)} of {len(cut)}" + _some(cut - named),
        ),
        Claim(
            "obskit_requests_lost_total counts the named",
            books.lost == died_lines == len(died),
            f"{books.lost:.0f} counted, {died_lines} lines of {len(died)} requests"
            + _some(one for one, lines in books.died.items() if len(lines) > 1),
        ),
        Claim(
            "no request is both logged and lost",
            not logged & died,
            f"{len(logged & died)}" + _some(logged & died),
        ),
        Claim(
            "one canonical line each", not more, f"{len(logged)} requests, {len(more)} twice" + _some(more)
        ),
        Claim(
            "every request is a client's",
            not foreign,
            f"{len(books.fates)} sent: {_fates(books.fates)}; {len(foreign)} of nobody" + _some(foreign),
        ),
        Claim(
            "answers are what the application gives",
            not books.wrong,
            f"{len(books.wrong)} wrong" + _some(books.wrong),
        ),
    ]


def _named(lines: list[Line], request_id: str) -> bool:
    return any(line.get("trace_id") == trace_of(request_id) for line in lines)


def _fates(fates: dict[str, str]) -> str:
    number = Counter(fates.values())
    return ", ".join(f"{number[fate]} {fate}" for fate in (ANSWERED, CUT, REFUSED))


def _some(ids: Iterable[str]) -> str:
    shown = sorted(ids)
    return f" [{', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''}]" if shown else ""
