"""The fixtures of the plugin, as they are for somebody who has it installed."""

from __future__ import annotations

import pytest

from obskit.testing.plugin import chaos, served, telemetry

__all__ = ["chaos", "served", "telemetry"]


@pytest.fixture(autouse=True)
def without_settings(clean_environment: None) -> None:
    """No variable of the developer's shell decides what a test sees."""
