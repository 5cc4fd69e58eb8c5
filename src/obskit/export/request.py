"""What an export is asked for, checked once, so that no later step meets a name it cannot write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from obskit.export.errors import ExportError
from obskit.export.links import Links
from obskit.export.objectives import DEFAULTS, Objective

FORMATS = ("prometheus", "grafana", "operator")

# It names files, and in Kubernetes objects and the label that a Service is found by.
_SERVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
# What Grafana takes as the uid of anything.
_UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
# RFC 1123, as Kubernetes wants it for a namespace and, with dots, for an object.
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(rf"{_DNS_LABEL.pattern}(?:\.{_DNS_LABEL.pattern})*")
_LABEL_KEY = re.compile(rf"(?:{_DNS_NAME.pattern}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True, slots=True)
class DataSources:
    """The uids of Grafana's data sources, for what cannot choose one by variable."""

    prometheus: str = "prometheus"
    loki: str = "loki"
    tempo: str = "tempo"

    def __post_init__(self) -> None:
        for name in ("prometheus", "loki", "tempo"):
            uid = getattr(self, name)
            if not _UID.fullmatch(uid):
                raise ExportError(
                    f"--{name}-uid: saw {uid!r}, expected at most 40 letters, digits, '-' and '_': the end of the "
                    "address of the data source's page in Grafana"
                )
        if len({self.prometheus, self.loki, self.tempo}) < 3:
            raise ExportError("--prometheus-uid, --loki-uid, --tempo-uid: saw one uid twice, expected three")


@dataclass(frozen=True, slots=True)
class Request:
    """One export.

    Without `service` the rules are for every job that reports ``obskit_app_info``. `job` is the scrape job of the
    service, its name when not given. `namespace` and `labels` are those of the Kubernetes objects. ExportError
    for what cannot be written, with the option that says it.
    """

    format: str = FORMATS[0]
    service: str | None = None
    job: str | None = None
    objectives: tuple[Objective, ...] = DEFAULTS
    links: Links = field(default_factory=Links)
    data_sources: DataSources = field(default_factory=DataSources)
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ExportError(f"--format: saw {self.format!r}, expected one of {', '.join(FORMATS)}")
        if self.service is not None and not _SERVICE.fullmatch(self.service):
            raise ExportError(
                f"--service: saw {self.service!r}, expected at most 63 letters, digits, '.', '_' and '-' with a "
                "letter or digit at both ends: it becomes part of file names. A scrape job of another name goes "
                "into --job"
            )
        if self.job is None:
            object.__setattr__(self, "job", self.service)
        elif self.service is None:
            raise ExportError("--job: give --service as well, which names what is written for the job")
        elif not self.job or not self.job.isprintable():
            raise ExportError(f"--job: saw {self.job!r}, expected the name of a scrape job")
        if self.format == "operator":
            self._check_kubernetes()
        elif self.namespace is not None or self.labels:
            raise ExportError("--namespace and --label say something about --format operator only")

    def _check_kubernetes(self) -> None:
        if self.service is None:
            raise ExportError("--format operator needs --service: the ServiceMonitor finds its Service by it")
        if not _DNS_NAME.fullmatch(self.service):
            raise ExportError(
                f"--service: saw {self.service!r}, expected lower case letters, digits, '-' and '.' for --format "
                "operator: it names Kubernetes objects. A scrape job of another name goes into --job"
            )
        if self.namespace is not None and not _DNS_LABEL.fullmatch(self.namespace):
            raise ExportError(
                f"--namespace: saw {self.namespace!r}, expected lower case letters, digits, '-'"
            )
        for key, value in self.labels.items():
            if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise ExportError(
                    f"--label: saw {f'{key}={value}'!r}, expected a Kubernetes label such as "
                    "release=kube-prometheus-stack"
                )

    @property
    def suffix(self) -> str:
        """What tells the files of one service from another's: ``-shop``, or nothing."""
        return f"-{self.service}" if self.service else ""


def labels(texts: list[str]) -> dict[str, str]:
    """``key=value`` texts as labels; ExportError for another form or a key given twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ExportError(f"--label: saw {text!r}, expected key=value")
        if key in found:
            raise ExportError(f"--label: saw {key!r} twice")
        found[key] = value
    return found
