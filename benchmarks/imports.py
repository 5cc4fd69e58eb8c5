"""What `import obskit` and `install` add to the start of an application.

    python benchmarks/imports.py [--apps FastAPI Flask Django] [--rounds N] [--limit MS] [--json FILE]

Fresh interpreters, in turn: each imports a framework and makes an application, then imports obskit and installs it.
What counts is the CPU time inside the process from there on, the median over the rounds, with compiled modules and a
warm disk cache. Beside it, in the same place, what the libraries cost that obskit stands on, if one imports them by
hand. How many instrumentations, and how much of what those instrument, is installed makes a difference: it is printed.
Exit status 1 if obskit adds more than the limit to any application, or starts a thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import distributions, entry_points
from pathlib import Path

APPS = {
    "FastAPI": "import fastapi\napp = fastapi.FastAPI()",
    "Flask": "import flask\napp = flask.Flask(__name__)",
    "Django": (
        "import django.conf\n"
        "django.conf.settings.configure(SECRET_KEY='none', ROOT_URLCONF='__main__', INSTALLED_APPS=[])\n"
        "urlpatterns = []\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "app = get_wsgi_application()"
    ),
}
BY_HAND = (
    "import structlog, prometheus_client, opentelemetry.instrumentation.utils\n"
    "import opentelemetry.sdk.trace.export, opentelemetry.sdk.resources\n"
)
BY_HAND_EXPORT = "import opentelemetry.exporter.otlp.proto.http.trace_exporter\n"
OBSKIT = "import obskit"
INSTALL = "obskit.install(app, service='imports')"
WAYS = {
    "obskit": (OBSKIT, INSTALL, {}),
    "obskit, OTLP endpoint": (OBSKIT, INSTALL, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}),
    "its libraries by hand": (BY_HAND, "", {}),
    "its libraries and the OTLP exporter": (BY_HAND + BY_HAND_EXPORT, "", {}),
}
PROGRAM = """
import json, sys, threading, time
{app}
def resident_kb():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
modules, threads, kb = len(sys.modules), set(threading.enumerate()), resident_kb()
began = time.process_time()
{imported}
between = time.process_time()
{installed}
ended = time.process_time()
print(json.dumps(dict(
    import_ms=(between - began) * 1e3, install_ms=(ended - between) * 1e3, mb=(resident_kb() - kb) / 1024,
    modules=len(sys.modules) - modules, threads=len(set(threading.enumerate()) - threads),
)))
"""


def measured(apps: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """By application and way, the median of each figure."""
    seen: dict[tuple[str, str], list[dict[str, float]]] = {(app, way): [] for app in apps for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        env = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
        # As in a service that was started before: every module is compiled, by the first round, which does not count.
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env |= {"PYTHONPYCACHEPREFIX": folder, "OBSKIT_STATE_DIR": folder}
        for number in range(rounds + 1):
            for (app, way), runs in seen.items():
                imported, installed, more = WAYS[way]
                program = PROGRAM.format(app=APPS[app], imported=imported, installed=installed)
                command = [sys.executable, "-c", program]
                ran = subprocess.run(command, capture_output=True, text=True, check=True, env={**env, **more})
                if number:
                    runs.append(json.loads(ran.stdout.splitlines()[-1]))
    figures: dict[str, dict[str, dict[str, float]]] = {app: {} for app in apps}
    for (app, way), found in seen.items():
        of = {name: statistics.median(one[name] for one in found) for name in found[0]}
        of["all_ms"] = statistics.median(one["import_ms"] + one["install_ms"] for one in found)
        figures[app][way] = of
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--apps", nargs="+", choices=APPS, default=list(APPS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=150.0, help="milliseconds that obskit may add")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    options = parser.parse_args()
    figures = measured(options.apps, options.rounds)
    instruments = sorted(entry.name for entry in entry_points(group="opentelemetry_instrumentor"))
    installed = len(list(distributions()))
    print(f"Python {platform.python_version()}, {installed} distributions installed, "
          f"instrumentations: {', '.join(instruments) or 'none'}")  # fmt: skip
    print(f"{'CPU ms, medians':10}{'':36}{'import':>8}{'install':>9}{'both':>8}{'modules':>9}{'MB':>7}")
    for app, ways in figures.items():
        for way, of in ways.items():
            print(
                f"{app:10}{way:36}{of['import_ms']:8.1f}{of['install_ms']:9.1f}{of['all_ms']:8.1f}"
                f"{of['modules']:9.0f}{of['mb']:7.1f}"
            )
    if options.json is not None:
        about = {"python": platform.python_version(), "distributions": installed, "instruments": instruments}
        options.json.write_text(json.dumps({**about, "rounds": options.rounds, "apps": figures}, indent=1))
    ours = [of for ways in figures.values() for way, of in ways.items() if way.startswith("obskit")]
    return int(any(of["all_ms"] > options.limit or of["threads"] for of in ours))


if __name__ == "__main__":
    sys.exit(main())
