"""LogQL and TraceQL of dashboards, links and runbooks, read with the grammars of Grafana's own editors."""

from __future__ import annotations

import json
from urllib.parse import quote

from tests.grafana.dashboard_files import marked
from tests.grafana.query_sources import LANGUAGES, dashboard_queries, shipped_queries
from tests.support.node_tools import Query, parse_errors


def test_every_logql_and_traceql_query_parses() -> None:
    queries = shipped_queries()
    for language in LANGUAGES.values():
        for place in ("obskit-", "runbooks/"):
            found = [
                query for query in queries if query.language == language and query.place.startswith(place)
            ]
            assert found, f"no {language} in {place}*: the search for queries finds nothing any more"
    errors = parse_errors(queries)
    assert not errors, "\n".join(errors)


def test_a_broken_query_is_told_with_its_place() -> None:
    broken = [
        Query("logql", '{service_name="shop"} | jsonn | outcome="truncated"', "a misspelled stage"),
        Query("logql", '{service_name="shop"} | json | outcome="truncated', "a string without end"),
        Query("logql", 'sum by (outcome) (rate({service_name="shop"} | json))', "a rate without window"),
        Query("logql", "", "no query at all"),
        Query("traceql", '{ resource.service.name = "shop" &&& kind = server }', "an operator too long"),
        Query("traceql", '{ resource.service.name = "shop" ', "a brace without end"),
    ]
    right = [
        Query("logql", '{service_name="shop"} | json | outcome="truncated"', "right"),
        Query("traceql", '{ resource.service.name = "shop" && kind = server }', "right"),
    ]
    told = parse_errors([*right, *broken])
    assert [error.partition(":")[0] for error in told] == [query.place for query in broken]


def test_queries_are_found_in_targets_variables_and_links() -> None:
    pane = {"queries": [{"refId": "A", "datasource": {"type": "tempo", "uid": "x"}, "query": "{ linked }"}]}
    dashboard = {
        "title": "Sample",
        "panels": [
            {
                "title": "Row",
                "panels": [
                    {
                        "title": "Lines",
                        "targets": [
                            {"refId": "A", "datasource": {"type": "loki", "uid": "x"}, "expr": "{shown}"},
                            {"refId": "B", "datasource": {"type": "prometheus", "uid": "x"}, "expr": "up"},
                        ],
                        "fieldConfig": {
                            "defaults": {
                                "links": [
                                    {
                                        "title": "Traces",
                                        "url": "/explore?schemaVersion=1&left="
                                        + quote(json.dumps(pane), safe=""),
                                    }
                                ]
                            }
                        },
                    }
                ],
            }
        ],
    }
    assert sorted(dashboard_queries("sample", dashboard)) == [
        Query("logql", "{shown}", "sample / Sample / Row / Lines"),
        Query("traceql", "{ linked }", "sample / Sample / Row / Lines / Traces (link)"),
    ]


def test_variables_become_what_grafana_puts_in_their_place() -> None:
    text = (
        'sum(rate({service_name=~"${service:pipe}"} | json | http_route=~"$http_route" [$__auto])) > $least'
    )
    expected = 'sum(rate({service_name=~"VAR_service"} | json | http_route=~"VAR_http_route" [1m])) > 7'
    assert marked(text, {"least": "7"}) == expected
