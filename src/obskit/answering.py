"""What we answer ourselves, before the application: `/metrics`, and whatever else has an endpoint."""

from __future__ import annotations

from collections.abc import Mapping

from obskit.parts import UNAVAILABLE, Answer, Endpoint


class Answering:
    """The endpoints of one install, asked under its guard."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints: dict[str, Endpoint] = dict(endpoints)

    def serve(self) -> None:
        """Begin to watch."""
        raise NotImplementedError

    def failed(self, stage: str, error: BaseException) -> None:
        """Count an error of our own."""
        raise NotImplementedError

    def answer(
        self, endpoint: Endpoint, method: str, headers: Mapping[str, str], client: str | None
    ) -> Answer:
        """Ask an endpoint of ours; a 503 if it fails. Never raises."""
        try:
            self.serve()  # a page is one of all workers, or says so
            answer = endpoint(method, headers, client)
            if isinstance(answer, Answer):
                return answer
            raise TypeError(f"saw {type(answer).__name__}, expected an Answer")
        except Exception as error:
            self.failed("endpoint", error)
            return UNAVAILABLE

    def endpoint(self, path: str, raw: str | bytes | None) -> Endpoint | None:
        """The endpoint of ours at this path; `raw` is the target as it was sent, where the server tells.

        Written in another way (/%6detrics) it is the application's: a rule in front of this server saw no /metrics.
        """
        found = self.endpoints.get(path)
        if found is not None and raw:
            sent = raw.decode("latin-1") if isinstance(raw, bytes) else raw
            if not sent.partition("?")[0].endswith(path):
                return None
        return found

    def at_once(
        self, endpoint: Endpoint, method: str, headers: Mapping[str, str], client: str | None
    ) -> Answer | None:
        """The answer that needs no work (a refusal); None where `answer` is to be asked. Never raises."""
        try:
            at_once = getattr(endpoint, "at_once", None)
            answer = None if at_once is None else at_once(method, headers, client)
            return answer if isinstance(answer, Answer) else None
        except Exception as error:
            self.failed("endpoint", error)
            return None
