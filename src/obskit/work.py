"""obskit.unit_of_work: what must happen as a whole, and a finding when half of it did."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from obskit.context import MAX_NAME, current, pipeline_of
from obskit.exchange import Exchange


class UnitOfWork:
    """One run of a unit of work, from `unit_of_work`. Leaving it never swallows an exception."""

    name = ""
    _exchange: Exchange | None = None
    _steps: tuple[str, ...] = ()
    _done: frozenset[str] = frozenset()

    def __init__(self, name: str, steps: Iterable[str]) -> None:
        try:
            self._exchange = current()
            self.name = str(name)[:MAX_NAME]
            self._steps = tuple(dict.fromkeys(str(step)[:MAX_NAME] for step in steps))
            if len(self._steps) < 2 or isinstance(steps, str):
                raise ValueError(
                    f"unit_of_work {self.name!r}: saw steps {steps!r}, expected a list of two or more"
                )
        except Exception as error:
            self._failed(error)

    def done(self, *steps: str) -> None:
        """These steps have happened for good: committed, sent, charged. Never raises."""
        try:
            for step in steps:
                if step in self._steps:
                    self._done = self._done | {step}
                else:
                    self._unknown(step)
        except Exception as error:  # a step that cannot be hashed
            self._failed(error)

    def undone(self, *steps: str) -> None:
        """These steps (without arguments: all) were taken back: rolled back, refunded. Never raises."""
        try:
            self._done = self._done.difference(steps or self._steps)
        except Exception as error:
            self._failed(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if not self._done or len(self._done) == len(self._steps):
                return
            pipeline = pipeline_of(self._exchange)
            if pipeline is not None:
                evidence: dict[str, object] = {
                    "kind": "unit_of_work",
                    "unit": self.name,
                    "done": [step for step in self._steps if step in self._done],
                    "missing": [step for step in self._steps if step not in self._done],
                }
                if kind is not None:
                    evidence["exception_type"] = kind.__name__
                pipeline.report("partial_write", self._exchange, evidence)
        except Exception as failure:
            self._failed(failure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.__exit__(kind, error, traceback)
        except Exception as failure:
            self._failed(failure)

    def _unknown(self, step: object) -> None:
        known = ", ".join(self._steps)
        self._failed(ValueError(f"unit_of_work {self.name!r} has no step {step!r}; its steps are: {known}"))

    def _failed(self, error: BaseException) -> None:
        pipeline = pipeline_of(self._exchange)
        if pipeline is not None:
            pipeline.failed("unit_of_work", error)


def unit_of_work(name: str, steps: Iterable[str]) -> UnitOfWork:
    """A context manager (also `async with`) for steps that must happen all or not at all.

        with obskit.unit_of_work("checkout", steps=["charge", "order", "mail"]) as work:
            charge(); work.done("charge")
            ...

    Leaving it with some steps done and others not is a `partial_write` finding of kind `unit_of_work`, whether an
    exception came through or not; all done or none done is none. Say `done` when a step cannot be taken back any
    more (after the commit), and `undone` when it was. `name` and `steps` are bounded names, never values. Never
    raises: a wrong step is counted in obskit_internal_errors_total{stage="unit_of_work"} and told in the log.
    """
    try:
        return UnitOfWork(name, steps)
    except Exception as error:
        _UNKNOWN._failed(error)
        return _UNKNOWN


# One without steps, for want of anything better: it finds nothing.
_UNKNOWN = UnitOfWork.__new__(UnitOfWork)
