"""wsgi.input as the application reads it: what an upload really held, seen from the side that reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from obskit.exchange import Exchange, digested


class Input:
    """wsgi.input, counting what the application reads and noting an upload that ends before its length."""

    __slots__ = ("_exchange", "_input")

    def __init__(self, stream: Any, exchange: Exchange) -> None:
        self._input = stream
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_input"), name)

    def read(self, *size: int | None) -> bytes | None:
        try:
            data: bytes | None = self._input.read(*size)
        except Exception as error:
            self._broke(error)
            raise
        try:
            asked = size[0] if size else None
            # PEP 3333 streams block until all that was asked for is there: less means that no more will come.
            self._note(
                data or b"", ended=asked is None or asked < 0 or (data is not None and len(data) < asked)
            )
        except Exception as error:
            self._exchange.pipeline.failed("wsgi.input", error)
        return data

    def readline(self, *size: int) -> bytes:
        try:
            line: bytes = self._input.readline(*size)
        except Exception as error:
            self._broke(error)
            raise
        try:
            self._note(line or b"", ended=not line)
        except Exception as error:
            self._exchange.pipeline.failed("wsgi.input", error)
        return line

    def readlines(self, *hint: int) -> list[bytes]:
        try:
            lines: list[bytes] = self._input.readlines(*hint)
        except Exception as error:
            self._broke(error)
            raise
        try:
            self._note(b"".join(lines), ended=not hint)
        except Exception as error:
            self._exchange.pipeline.failed("wsgi.input", error)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        lines = iter(self._input)
        line: bytes | None = b""
        while line is not None:
            try:
                line = next(lines, None)
            except Exception as error:
                self._broke(error)
                raise
            try:
                self._note(line or b"", ended=line is None)
            except Exception as error:
                self._exchange.pipeline.failed("wsgi.input", error)
            if line is not None:
                yield line

    def _broke(self, error: Exception) -> None:
        """The server could not read on. Never raises."""
        try:
            # A reset, or a chunk that never came. How the stream was called is no matter of the upload.
            if not isinstance(error, TypeError | ValueError):
                self._cut()
        except Exception as failure:
            self._exchange.pipeline.failed("wsgi.input", failure)

    def _cut(self) -> None:
        exchange = self._exchange
        declared = exchange.declared_request_bytes
        if not exchange.closed and (declared is None or exchange.request_bytes < declared):
            exchange.upload_cut = True
            exchange.request_complete = False

    def _note(self, data: bytes, *, ended: bool) -> None:
        exchange = self._exchange
        if exchange.closed:
            return
        if data and exchange.method in exchange.pipeline.digested:
            exchange.body_checksum = digested(data, exchange.body_checksum or 0, exchange.request_bytes)
        exchange.request_bytes += len(data)
        declared = exchange.declared_request_bytes
        exchange.request_complete = ended if declared is None else exchange.request_bytes >= declared
        if declared is not None and (ended or exchange.upload_cut):
            exchange.upload_cut = exchange.request_bytes < declared


def observe_input(environ: dict[str, Any], exchange: Exchange, pipeline: Any) -> None:
    """Watch the request body that this environ announces; where none is, the server's own object stays."""
    stream = environ.get("wsgi.input")
    if stream is not None:
        exchange.pipeline = pipeline  # which the stream needs, whatever comes of the request's record
        environ["wsgi.input"] = Input(stream, exchange)
