"""A sample configuration for Alertmanager: who is woken, who gets a ticket, and what is not said twice."""

from __future__ import annotations

from typing import Any

# Which alert makes others pointless, as long as the labels in `equal` are the same.
_INSTANCE = (
    "RequestsPileUp",
    "CpuSaturated",
    "MemoryGrowth",
    "FdExhaustion",
    "RestartLoop",
    "TelemetryExportFailing",
)
_RECEIVERS = {
    "page": "http://localhost:5001/page",
    "ticket": "http://localhost:5001/ticket",
    "deadman": "http://localhost:5001/deadman",
}

COMMENT = (
    "A sample to start from, checked with `amtool check-config`. Put your own receivers where the webhooks are:",
    "`page` wakes somebody, `ticket` waits for the morning, `deadman` is a service outside of this cluster that",
    "raises the alarm when ObskitWatchdog no longer arrives.",
)


def configuration() -> dict[str, Any]:
    """The content of alertmanager.yaml, to be written as YAML."""
    return {
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "job"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "12h",
            "routes": [
                {
                    "matchers": ['alertname="ObskitWatchdog"'],
                    "receiver": "deadman",
                    "group_wait": "0s",
                    "group_interval": "1m",
                    "repeat_interval": "5m",
                },
                {"matchers": ['severity="critical"'], "receiver": "page", "repeat_interval": "1h"},
            ],
        },
        "receivers": [
            {"name": name, "webhook_configs": [{"url": url, "send_resolved": name != "deadman"}]}
            for name, url in _RECEIVERS.items()
        ],
        "inhibit_rules": [
            # The page says what the ticket of the same name would.
            _inhibit(
                'severity="critical"', 'severity=~"warning|info"', "alertname", "job", "slo", "http_route"
            ),
            # Of a service that is gone there is nothing else to say.
            _inhibit(
                _named("ServiceAbsent"), ['alertname=~"Obskit.+"', 'alertname!="ObskitServiceAbsent"'], "job"
            ),
            _inhibit(_named("TargetDown"), _named(*_INSTANCE), "job", "instance"),
            _inhibit(_named("AllRequestsFailing"), _named("AvailabilityBudgetBurn", "RouteErrors"), "job"),
            _inhibit(
                _named("TrafficStopped"), _named("TrafficDrop", "RouteTrafficVanished", "LogsSilent"), "job"
            ),
            # A process without CPU time answers late; that requests wait is the same news.
            _inhibit(_named("CpuSaturated"), _named("RequestsPileUp"), "job", "instance"),
        ],
    }


def _named(*alerts: str) -> str:
    names = [f"Obskit{alert}" for alert in alerts]
    return f'alertname="{names[0]}"' if len(names) == 1 else f'alertname=~"{"|".join(names)}"'


def _inhibit(source: str, target: str | list[str], *equal: str) -> dict[str, Any]:
    return {
        "source_matchers": [source],
        "target_matchers": [target] if isinstance(target, str) else target,
        "equal": list(equal),
    }
