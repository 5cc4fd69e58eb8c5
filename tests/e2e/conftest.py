"""The run that the alert and the dashboard tests look at, once a session: it takes minutes. tests/support/sharing.py
keeps them in one worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.watched.story import Story, told


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with told(tmp_path_factory.mktemp("watched")) as story:
        yield story
