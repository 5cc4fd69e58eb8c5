"""Detectors that begin with an empty memory: what another test (or run) sent before is no repeat in this one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory

from obskit.findings import Setting
from obskit.pipeline import Pipeline

_IN_MEMORY = "/dev/shm"


def forgetful(pipeline: Pipeline, service: str) -> Callable[[], None]:
    """Give `pipeline` judges made anew, with a folder of their own, until the returned function is called."""
    place = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    folder = TemporaryDirectory(prefix="obskit-testing-", dir=place)
    setting = Setting(replace(pipeline.config, state_dir=folder.name), service, pipeline.failed)
    had_begun = pipeline._begun
    made = [(one, one.make(setting) if one.make is not None else None) for one, _ in pipeline._asked]
    before = pipeline.ask(made)
    if had_begun:
        pipeline._each_judge("begin")

    def stop() -> None:
        pipeline._each_judge("shutdown")
        pipeline.ask(before)
        if pipeline._begun and not had_begun:
            pipeline._each_judge("begin")
        folder.cleanup()

    return stop
