"""What an export can be asked for, and how a wrong wish is answered."""

from __future__ import annotations

from typing import Any

import pytest

from obskit.export.errors import ExportError
from obskit.export.request import DataSources, Request, labels


@pytest.mark.parametrize("service", ["shop", "Shop_2.eu-west", "s", "a" * 63])
def test_a_sensible_name_is_taken(service: str) -> None:
    request = Request(service=service)
    assert request.suffix == f"-{service}"
    assert request.job == service


@pytest.mark.parametrize(
    "service",
    [
        "",
        ".",
        "..",
        "../shop",
        "a/b",
        "a\\b",
        "/etc",
        "shop ",
        "sh op",
        "-shop",
        "shop.",
        "a\nb",
        "ö",
        "a" * 64,
        "a\0b",
    ],
)
def test_a_name_that_could_leave_the_folder_or_break_a_file_name_is_refused(service: str) -> None:
    with pytest.raises(ExportError, match="--service: saw"):
        Request(service=service)


def test_without_a_service_everything_is_for_every_job() -> None:
    assert (Request().job, Request().suffix) == (None, "")


def test_a_job_may_be_called_otherwise_than_the_service() -> None:
    assert Request(service="shop", job="prod/shop $1").job == "prod/shop $1"


@pytest.mark.parametrize("job", ["", "a\nb"])
def test_a_job_that_no_label_can_have_is_refused(job: str) -> None:
    with pytest.raises(ExportError, match="--job: saw"):
        Request(service="shop", job=job)


def test_a_job_needs_a_service_that_names_the_files() -> None:
    with pytest.raises(ExportError, match="give --service as well"):
        Request(job="shop")


def test_an_unknown_format_is_answered_with_those_there_are() -> None:
    with pytest.raises(ExportError, match="'helm', expected one of prometheus, grafana, operator"):
        Request(format="helm")


@pytest.mark.parametrize("name", ["prometheus", "loki", "tempo"])
@pytest.mark.parametrize("uid", ["", "a b", "$x", "a" * 41])
def test_a_uid_that_grafana_would_not_take_is_refused(name: str, uid: str) -> None:
    with pytest.raises(ExportError, match=f"--{name}-uid: saw"):
        DataSources(**{name: uid})


def test_one_uid_for_two_data_sources_is_refused() -> None:
    with pytest.raises(ExportError, match="one uid twice"):
        DataSources(loki="tempo")


@pytest.mark.parametrize("options", [{"namespace": "monitoring"}, {"labels": {"release": "x"}}])
def test_options_of_kubernetes_are_refused_where_they_would_say_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match="--format operator only"):
        Request(service="shop", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"service": None}, "needs --service"),
        ({"service": "Shop"}, "lower case"),
        ({"service": "my_shop"}, "lower case"),
        ({"namespace": "Monitoring"}, "--namespace: saw"),
        ({"namespace": ""}, "--namespace: saw"),
        ({"labels": {"a b": "c"}}, "--label: saw 'a b=c'"),
        ({"labels": {"a": "b c"}}, "--label: saw 'a=b c'"),
        ({"labels": {"/a": ""}}, "--label: saw"),
        ({"labels": {"a": "x" * 64}}, "--label: saw"),
    ],
)
def test_what_kubernetes_would_not_take_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        Request(**{"format": "operator", "service": "shop", **options})


def test_kubernetes_labels_are_taken_as_they_are_written() -> None:
    wanted = {"release": "kube-prometheus-stack", "example.org/team": ""}
    assert labels(["release=kube-prometheus-stack", "example.org/team="]) == wanted
    assert Request(format="operator", service="shop", labels=wanted, namespace="monitoring").labels == wanted


@pytest.mark.parametrize(
    ("texts", "said"), [(["a"], "expected key=value"), (["a=1", "a=2"], "saw 'a' twice")]
)
def test_a_label_of_another_form_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        labels(texts)
