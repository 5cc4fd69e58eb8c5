"""What a reader sees: the screen at several sizes, the plain text, the summary and the JSON."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from obskit.demo.plain import EVERY_S, PlainView, QuietView, summary
from obskit.demo.screen import ScreenView, render
from obskit.demo.state import Picture, Result
from obskit.demo.traffic import Tally
from obskit.demo.watch import Report, RouteReport

URL = "http://127.0.0.1:43210/metrics"
ROUTES = tuple(
    RouteReport(
        f"/api/v1/orders/<int:order_id>/{n}", ("GET",), 10, n % 2, n / 3, 0.0123, math.nan, {"raised": n}
    )
    for n in range(14)
)
REPORT = Report(30.0, 140, 7, 4.67, 0.05, 2, ROUTES, {"soft_error": 2, "client_disconnect": 31})
LINE = {"timestamp": "2026-01-02T03:04:05.678901Z", "level": "info", "http_route": "/a", "duration_s": 0.01}
PICTURE = Picture(
    "flask", "gunicorn", 4711, "http://127.0.0.1:43210", URL, 72.0, REPORT, [LINE] * 9, Tally(sent=142), 140
)
RESULT = Result("flask", "gunicorn", URL, 30.0, Tally(sent=140), 140, REPORT, LINE, 140)


def drawn(width: int, height: int, picture: Picture = PICTURE) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(render(picture, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(100, 40), (80, 24), (200, 60), (96, 30)])
def test_the_screen_fits_and_says_where_everything_is(width: int, height: int) -> None:
    rows = drawn(width, height)
    text = "\n".join(rows)
    assert len(rows) <= height
    assert max(len(row) for row in rows) <= width
    for said in (
        "flask shop on gunicorn",
        "pid 4711",
        "up 1:12",
        f"curl -s {URL}",
        "Ctrl-C stops it",
        "5.0%",
        "sent 142",
        "findings client_disconnect 31, soft_error 2",
    ):
        assert said in text
    assert text.count("03:04:05") in range(5, 7)


def test_all_routes_are_there_when_there_is_room() -> None:
    text = "\n".join(drawn(100, 40))
    assert all(route.route in text for route in ROUTES)
    assert "more" not in text


def test_a_low_screen_shows_the_busiest_routes_and_how_many_it_does_not() -> None:
    text = "\n".join(drawn(80, 24))
    assert ROUTES[13].route in text
    assert f"{ROUTES[1].route} " not in text
    assert "and 8 more" in text


def test_a_screen_before_the_first_request_is_no_error() -> None:
    empty = replace(PICTURE, report=Report(0.0, 0, 0, 0.0, 0.0, 0, ()), lines=[])
    assert URL in "\n".join(drawn(100, 40, empty))


def test_the_screen_gives_the_terminal_back() -> None:
    out = io.StringIO()
    view = ScreenView(Console(file=out, force_terminal=True, width=100, height=40))
    view.open()
    view.show(PICTURE)
    view.close()
    assert URL in out.getvalue()
    assert out.getvalue().index("\x1b[?1049h") < out.getvalue().index("\x1b[?1049l")


def test_plain_text_comes_now_and_then() -> None:
    out = io.StringIO()
    view = PlainView(out)
    view.show(replace(PICTURE, up_s=1.0))
    hello = out.getvalue()
    assert f"curl -s {URL}" in hello
    view.show(replace(PICTURE, up_s=1.0 + EVERY_S - 0.1))
    assert out.getvalue() == hello
    view.show(replace(PICTURE, up_s=1.0 + EVERY_S))
    assert "4.7 requests/s, errors 5.0%, in flight 2" in out.getvalue()
    assert ROUTES[13].route in out.getvalue()


def test_with_json_stdout_stays_empty_until_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    view = QuietView()
    for up_s in (1.0, 20.0):
        view.show(replace(PICTURE, up_s=up_s))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count(URL) == 1


def test_the_summary_says_what_was_found() -> None:
    assert "  findings since the start: client_disconnect 31, soft_error 2" in summary(RESULT)
    assert RESULT.as_json()["findings"] == {"soft_error": 2, "client_disconnect": 31}


def test_the_summary_says_that_the_numbers_agree() -> None:
    assert "140 requests sent, 140 counted by /metrics: they agree." in summary(RESULT)[-1]


@pytest.mark.parametrize("counted", [139, 141])
def test_the_summary_says_that_the_numbers_differ(counted: int) -> None:
    result = replace(RESULT, counted=counted)
    assert f"140 requests sent, {counted} counted by /metrics: THEY DIFFER by 1" in summary(result)[-1]
    assert result.as_json()["agree"] is False


def test_the_json_is_json_although_a_quantile_is_unknown() -> None:
    text = json.dumps(RESULT.as_json(), allow_nan=False)
    assert json.loads(text)["p95_s"][ROUTES[0].route] is None
