"""What a run says: the table for the terminal, the part of docs/performance.md, and the chart. From its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cost.inprocess import TWIN
from benchmarks.cost.variants import BY_NAME, FRAMEWORKS

TITLES = {"fastapi": "FastAPI", "starlette": "Starlette", "flask": "Flask", "django": "Django"}
COLUMNS = (
    "added µs",
    "of the bare",
    "of assembled",
    "of careful",
    "of the floor",
    "requests/s",
    "background",
    "spans",
)
PEERS = (
    "fastapi starlette flask django uvicorn gunicorn opentelemetry-sdk opentelemetry-exporter-otlp-proto-http "
    "opentelemetry-instrumentation-fastapi opentelemetry-instrumentation-flask opentelemetry-instrumentation-django "
    "prometheus-client prometheus-fastapi-instrumentator prometheus-flask-exporter django-prometheus structlog orjson "
    "logfire sentry-sdk"
).split()
OURS = "#1f6feb"
OTHERS = "#8b949e"


def title_of(key: str) -> str:
    if key in BY_NAME:
        return BY_NAME[key].title
    return {TWIN: "(the bare one beside itself)"}.get(key, key)


def rows_of(figures: dict[str, dict[str, float]]) -> list[list[str]]:
    """The cells of a framework's or a server's variants, cheapest last."""
    return [
        [
            title_of(key),
            f"{one['added_us']:.1f} ({one['low_us']:.1f} to {one['high_us']:.1f})",
            _times(one.get("of_bare")),
            _share(one.get("of_assembled")),
            _share(one.get("of_careful")),
            _share(one.get("of_floor-lean")),
            _times(one.get("rate_of_bare")),
            f"{one['background_us_per_span']:.1f}" if "background_us_per_span" in one else "",
            f"{one['spans']:.2f}".removesuffix(".00") if "spans" in one else "",
        ]
        for key, one in sorted(figures.items(), key=lambda item: -item[1]["added_us"])
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    if value is None or value <= 0:
        return ""
    return f"1/{1 / value:.1f}" if value < 0.67 else f"{value:.2f}"


def _sections(found: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    sections = []
    for name in FRAMEWORKS:
        if name in found["frameworks"]:
            figures = found["frameworks"][name]["figures"]
            bare = figures[TWIN]["bare_us"]
            sections.append((f"{TITLES[name]}, in process: a bare request takes {bare:.0f} µs", figures))
    for server, one in found["servers"].items():
        bare = next(iter(one["figures"].values()))["bare_us"]
        sections.append(
            (f"{server}, {TITLES[one['framework']]}: a bare request takes {bare:.0f} µs", one["figures"])
        )
    return sections


def text(found: dict[str, Any]) -> str:
    """The table, for a terminal."""
    blocks = [(title, rows_of(figures)) for title, figures in _sections(found)]
    header = ["variant", *COLUMNS]
    widths = [max(len(row[at]) for _, rows in blocks for row in [header, *rows]) for at in range(len(header))]

    def line(cells: list[str]) -> str:
        return "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    out = [line(header)]
    for title, rows in blocks:
        out += ["", title, *(line(row) for row in rows)]
    out += ["", "goals"]
    wide = (
        [max(len(goal[key]) for goal in found["goals"]) for key in ("goal", "where")]
        if found["goals"]
        else [0, 0]
    )
    out += [
        f"{'met   ' if goal['met'] else 'MISSED'}  {goal['goal'].ljust(wide[0])}  {goal['where'].ljust(wide[1])}  "
        f"{goal['seen']} (at most {goal['limit']})"
        for goal in found["goals"]
    ]
    out += ["", *_waiting_lines(found)]
    for framework, counts in found.get("instructions", {}).items():
        told = ", ".join(f"{title_of(name)} {count:,.0f}" for name, count in counts.items())
        out.append(f"instructions per request, {TITLES[framework]}: {told}")
    return "\n".join(out) + "\n"


def _waiting_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for server, one in found["servers"].items():
        for key in one["figures"]:
            bare, own = one["waited"][BY_NAME[key].bare], one["waited"][key]
            more = {which: own[which] - bare[which] for which in own}
            lines.append(
                f"{server}, {one['rate']:.0f} requests a second: {title_of(key)} adds {more['p50_us']:+.0f} µs "
                f"to the median of {bare['p50_us']:.0f}, {more['p99_us']:+.0f} µs to the p99 of {bare['p99_us']:.0f}"
            )
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The part of docs/performance.md that a run writes."""
    took = f"{found['took_s'] / 60:.0f} minutes, {found['rounds']} rounds"
    out = [
        f"`{found['command']}`, {found['date']}, {found['machine']}, Python {found['python']}, {took}",
        "",
        "![What each adds to a request](performance/cost.svg)",
        "",
        "| goal | where | at most | seen | |",
        "|---|---|---|---|---|",
        *(
            f"| {goal['goal']} | {goal['where']} | {goal['limit']} | {goal['seen']} | {_word(goal)} |"
            for goal in found["goals"]
        ),
        "",
    ]
    for title, figures in _sections(found):
        out += [
            f"### {title}",
            "",
            f"| variant | {' | '.join(COLUMNS)} |",
            "|---|" + "--:|" * len(COLUMNS),
            *(f"| {' | '.join(row)} |" for row in rows_of(figures)),
            "",
        ]
    if found["servers"]:
        out += ["### Waiting, at a fixed rate", "", *(f"- {line}" for line in _waiting_lines(found)), ""]
    if found.get("instructions"):
        names = list(dict.fromkeys(name for counts in found["instructions"].values() for name in counts))
        out += [
            "### Instructions per request",
            "",
            "Counted by callgrind, all threads: they do not depend on how busy the machine is.",
            "",
            f"| | {' | '.join(title_of(name) for name in names)} |",
            "|---|" + "--:|" * len(names),
            *(
                f"| {TITLES[framework]} | "
                + " | ".join(f"{counts[name]:,.0f}" if name in counts else "" for name in names)
                + " |"
                for framework, counts in found["instructions"].items()
            ),
            "",
        ]
    out += ["### Who was measured", "", "| | version |", "|---|---|"]
    out += [f"| {name} | {version} |" for name, version in found["versions"].items()]
    out += ["", "| variant | set up |", "|---|---|"]
    used = {key for one in found["frameworks"].values() for key in one["figures"]}
    out += [f"| {one.title} | {one.what} |" for one in BY_NAME.values() if one.name in used]
    return "\n".join(out) + "\n"


def _word(goal: dict[str, Any]) -> str:
    return "met" if goal["met"] else "**missed**"


def chart(found: dict[str, Any], path: Path) -> None:
    """A picture of the table: the same bytes from the same figures."""
    import matplotlib  # noqa: PLC0415  (drawn seldom; a run without a chart needs none)

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "obskit", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot  # noqa: PLC0415

    names = [name for name in FRAMEWORKS if name in found["frameworks"]]
    picture, panels = pyplot.subplots(
        len(names), 1, figsize=(7.5, 0.4 + 2.4 * len(names)), layout="constrained", squeeze=False
    )
    for panel, name in zip(panels[:, 0], names, strict=True):
        figures = found["frameworks"][name]["figures"]
        keys = sorted(figures, key=lambda key: figures[key]["added_us"])
        keys = [key for key in keys if key != TWIN and "+" not in key]
        values = [figures[key]["added_us"] for key in keys]
        errors = [
            [max(0.0, figures[key]["added_us"] - figures[key]["low_us"]) for key in keys],
            [max(0.0, figures[key]["high_us"] - figures[key]["added_us"]) for key in keys],
        ]
        colours = [OURS if BY_NAME[key].environment == "obskit" else OTHERS for key in keys]
        panel.barh(
            [title_of(key) for key in keys], values, xerr=errors, color=colours, ecolor="#57606a", height=0.7
        )
        for at, value in enumerate(values):
            panel.annotate(
                f" {value:.0f}", (value, at), va="center", xytext=(6, 0), textcoords="offset points"
            )
        panel.set_title(TITLES[name], loc="left", fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.12)
    panels[-1, 0].set_xlabel("µs of CPU added to a request, export included (bar: median, line: quartiles)")
    picture.savefig(path, metadata={"Date": None})
    pyplot.close(picture)
