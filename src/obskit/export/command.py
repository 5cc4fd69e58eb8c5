"""`obskit export`: its arguments, and what it says. What the work needs is imported when it runs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obskit.export.errors import ExportError
from obskit.export.links import DEFAULT_GRAFANA_URL

if TYPE_CHECKING:
    from obskit.export.request import Request

TOKEN_VARIABLE = "GRAFANA_TOKEN"

_NEXT = {
    "rules": "name the file below rule_files in prometheus.yml and reload Prometheus. Exemplars need it to be started "
    "with --enable-feature=exemplar-storage",
    "alertmanager": "a sample: put your own receivers in, and start Alertmanager with it",
    "provisioning": "copy into Grafana's provisioning folder (/etc/grafana/provisioning) and restart it; datasources "
    "is a sample, to be left out where Grafana has its data sources",
    "dashboards": "copy to /var/lib/grafana/dashboards/obskit, or import them with: obskit export --push URL",
    "manifests": "kubectl apply --server-side -R -f {directory}/manifests (without --server-side an object "
    "above 256 KiB is refused)",
    "runbooks": "publish them where you like, and name that place with --runbook-base; without it the alerts lead "
    "to the dashboard that holds them",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything after `obskit export`."""
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="folder to write into")
    what = parser.add_argument_group("what is written")
    what.add_argument(
        "--service", metavar="NAME", help="rules for this service alone (default: for every job)"
    )
    what.add_argument("--job", metavar="NAME", help="its scrape job (default: the service's name)")
    what.add_argument(
        "--slo",
        nargs="+",
        action="append",
        default=[],
        metavar="OBJECTIVE",
        help="what share of requests must be good, for one route as latency@/checkout=95:0.25s (default: "
        "availability=99.9 latency=99:0.5s)",
    )
    what.add_argument("--format", default="prometheus", help="prometheus (default), grafana or operator")
    what.add_argument("--runbook-base", metavar="URL", help="where the runbooks are published")
    what.add_argument(
        "--grafana-url",
        metavar="URL",
        help=f"where alerts link to (default: --push, or {DEFAULT_GRAFANA_URL})",
    )
    for name in ("prometheus", "loki", "tempo"):
        what.add_argument(
            f"--{name}-uid",
            default=name,
            metavar="UID",
            help=f"of the data source in Grafana (default: {name})",
        )
    what.add_argument("--namespace", metavar="NAME", help="of the Kubernetes objects (--format operator)")
    what.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="on the Kubernetes objects, such as release=kube-prometheus-stack",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 when DIR is not what would be written",
    )
    conflicts = how.add_mutually_exclusive_group()
    conflicts.add_argument("--force", action="store_true", help="overwrite what somebody changed since")
    conflicts.add_argument("--keep", action="store_true", help="leave what somebody changed, write the rest")
    how.add_argument(
        "--push",
        metavar="URL",
        help=f"import the dashboards into this Grafana; its token is read from {TOKEN_VARIABLE}",
    )
    how.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    how.add_argument(
        "--insecure", action="store_true", help="send the token over plain http to another host as well"
    )
    how.add_argument("--json", action="store_true", help="one JSON object on stdout instead of text")


def run(options: argparse.Namespace) -> int:
    """Carries out `obskit export` and returns its exit status."""
    report: dict[str, Any] = {}
    try:
        if find_spec("yaml") is None:
            raise ExportError(
                "it writes YAML with PyYAML, which is not installed: pip install 'obskit-web[cli]'"
            )
        status = _export(options, report)
    except ExportError as error:
        report["error"] = str(error)
        status = error.exit_status
        sys.stderr.write(f"obskit export: {error}\n")
    if options.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return status


def _export(options: argparse.Namespace, report: dict[str, Any]) -> int:
    directory, objectives = _directory_and_objectives(options)
    if directory is None and options.push is None:
        raise ExportError("say where to: a folder, or --push URL, or both")
    if options.check and (directory is None or options.push is not None):
        raise ExportError("--check compares a folder, and that alone: give DIR and no --push (see --dry-run)")
    request = _request(options, objectives)
    say = (lambda _: None) if options.json else sys.stdout.write
    if directory is not None:
        status = _to_folder(request, directory, options, report, say)
        if status or options.check:
            return status
    if options.push is not None:
        _to_grafana(request, options, report, say)
    return 0


def _directory_and_objectives(options: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """DIR may stand behind the objectives, where argparse takes it for one of them."""
    directory: Path | None = options.directory
    groups: list[list[str]] = [list(group) for group in options.slo]
    for group in groups:
        # Never the first value of an --slo: a mistyped objective would become a folder.
        if directory is None and len(group) > 1 and "=" not in group[-1]:
            directory = Path(group.pop())
    return directory, [text for group in groups for text in group]


def _request(options: argparse.Namespace, objectives: list[str]) -> Request:
    from obskit.export import objectives as slo  # noqa: PLC0415
    from obskit.export.links import Links, web_address  # noqa: PLC0415
    from obskit.export.request import DataSources, Request, labels  # noqa: PLC0415

    if options.push is not None:
        options.push = web_address(options.push, "--push")
    grafana = options.push or DEFAULT_GRAFANA_URL
    if options.grafana_url is not None:
        grafana = web_address(options.grafana_url, "--grafana-url")
    runbooks = options.runbook_base
    return Request(
        format=options.format,
        service=options.service,
        job=options.job,
        objectives=slo.parse(objectives),
        links=Links(grafana, None if runbooks is None else web_address(runbooks, "--runbook-base")),
        data_sources=DataSources(options.prometheus_uid, options.loki_uid, options.tempo_uid),
        namespace=options.namespace,
        labels=labels(options.label),
    )


# ---- into a folder ----------------------------------------------------------------------------------


def _to_folder(
    request: Request, directory: Path, options: argparse.Namespace, report: dict[str, Any], say: Any
) -> int:
    """Writes, or with --check and --dry-run only looks. The exit status."""
    from obskit.export import bundle, write  # noqa: PLC0415
    from obskit.export.write import State  # noqa: PLC0415

    plan = write.plan(bundle.files(request), directory, request.service, force=options.force)
    differences = dict(plan.differences)
    if options.keep:
        for path in plan.paths(*write.CONFLICTS, State.LEFT_OVER_CHANGED):
            del differences[path]
    report["directory"] = str(directory)
    if options.check:
        report["differences"] = differences
        say("".join(f"{state}: {path}\n" for path, state in differences.items()))
        if not differences:
            say(f"{directory} is as this export writes it\n")
        return int(bool(differences))
    if options.dry_run:
        report["would_change"] = differences
        say("".join(f"would {_verb(state, options.force)} {path}\n" for path, state in differences.items()))
        if not differences:
            say(f"{directory} is as this export writes it already\n")
        return int(bool(plan.conflicts) and not (options.force or options.keep))
    write.carry_out(plan, force=options.force, keep=options.keep)
    overwritten = plan.conflicts if options.force else []
    written = [*plan.paths(State.MISSING, State.DIFFERS), *overwritten]
    kept = [path for path in plan.conflicts if options.keep] + plan.paths(State.LEFT_OVER_CHANGED)
    removed = plan.paths(State.LEFT_OVER)
    report |= {
        "written": sorted(written),
        "unchanged": plan.paths(State.SAME),
        "removed": removed,
        "kept": kept,
    }
    say(_summary(directory, plan.files, report))
    if request.links.grafana_url == DEFAULT_GRAFANA_URL:
        say(f"\nThe alerts link to {DEFAULT_GRAFANA_URL}: name your own Grafana with --grafana-url\n")
    return 0


def _verb(state: str, force: bool) -> str:
    """What a run without --dry-run does about a file in `state`."""
    if state in ("missing", "differs"):
        return "write"
    if state == "left over":
        return "remove"
    if state == "left over, changed by you":
        return "leave, because it is changed by you,"
    return "overwrite" if force else f"refuse, because it is {state},"


def _summary(directory: Path, files: Mapping[str, str], report: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{len(report[what])} {what}" for what in ("written", "unchanged", "removed", "kept"))
    lines = [f"{directory}: {counts}"]
    lines += [f"  removed {path}" for path in report["removed"]]
    lines += [f"  kept as you changed it: {path}" for path in report["kept"]]
    lines += ["", "What to do with it:"]
    for folder in dict.fromkeys(path.partition("/")[0] for path in files):
        below = [path for path in files if path.startswith(f"{folder}/")]
        name = below[0] if len(below) == 1 else f"{folder}/ ({len(below)} files)"
        lines += [f"  {name}", f"      {_NEXT[folder].format(directory=shlex.quote(str(directory)))}"]
    lines += [
        "  .obskit-export.json",
        "      keep it with the files: it tells yours from ours at the next export",
    ]
    return "\n".join(lines) + "\n"


# ---- into Grafana -----------------------------------------------------------------------------------


def _to_grafana(request: Request, options: argparse.Namespace, report: dict[str, Any], say: Any) -> None:
    from obskit.export import bundle  # noqa: PLC0415
    from obskit.export.grafana_http import Grafana  # noqa: PLC0415
    from obskit.export.push import FOLDER_TITLE, Action, push  # noqa: PLC0415

    grafana = Grafana(options.push, os.environ.get(TOKEN_VARIABLE), insecure=options.insecure)
    pushed = push(
        bundle.dashboards(request), grafana, force=options.force, keep=options.keep, dry_run=options.dry_run
    )
    report["grafana"] = {
        "url": grafana.url,
        "version": pushed.grafana_version,
        "dry_run": options.dry_run,
        "folder_created": pushed.folder_created,
        "dashboards": pushed.actions,
    }
    past = {Action.CREATE: "created", Action.UPDATE: "updated"}
    say(f"Grafana {pushed.grafana_version} at {grafana.url}\n")
    if pushed.folder_created:
        say(f"  {'would create' if options.dry_run else 'created'} folder {FOLDER_TITLE}\n")
    for uid, action in pushed.actions.items():
        done = f"would {action}" if options.dry_run and action in past else past.get(action, f"{action}:")
        say(f"  {done.removesuffix(':')} {grafana.url}/d/{uid}\n")
