"""One kind of application in a process of its own: which calls a request makes, and what comes of each that fails.

`python -m tests.reliability.faults.inject KIND OUT` writes what it found as JSON. Each site is tried in a child made
by fork, behind some healthy requests: what one fault has spoilt is no other one's doing, and a hang ends with it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import re
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.reliability.faults import hook

hook.install()

import obskit  # noqa: E402  (behind the hook)
from obskit import pipeline as pipelines  # noqa: E402
from obskit import presence  # noqa: E402
from obskit.signals.metrics import Metrics  # noqa: E402
from tests.reliability.faults import apps, exempt, shapes, talk  # noqa: E402

CHILD_TIMEOUT_S = 5.0
BATCH = 400  # of faults in one child: what they spoil, they spoil for those behind them
_TOLD = re.compile(rb'"event":\s*"obskit.internal_error".*?"stage":\s*"([^"]+)"')

counted: Counter[str] = Counter()


def _watch_counting() -> None:
    """Keep what is really counted: when the counting itself has come back."""
    for name in ("internal_error", "dropped"):
        original = getattr(Metrics, name)

        def noted(self: Any, *args: Any, _original: Any = original, _name: str = name) -> None:
            _original(self, *args)
            counted[_name] += 1

        setattr(Metrics, name, noted)


# ---- children ---------------------------------------------------------------------------------------


class Child:
    """A forked process that says what it does, one pickled tuple after the other."""

    def __init__(self, work: Callable[[Callable[..., None]], None]) -> None:
        self._read, write = os.pipe()
        self._lines = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `told`)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            os.dup2(self._lines.fileno(), 1)
            try:
                work(lambda *said: self._say(write, said))
            except BaseException as error:
                self._say(write, ("broke", repr(error)))
            finally:
                os._exit(0)
        os.close(write)

    @staticmethod
    def _say(pipe: int, said: tuple[Any, ...]) -> None:
        data = pickle.dumps(said)
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(pipe, data) :]

    def said(self) -> Iterator[tuple[Any, ...]]:
        """What the child says, until it ends or has said nothing for too long: then the last is ("hang",)."""
        buffer = b""
        while True:
            if not select.select([self._read], [], [], CHILD_TIMEOUT_S)[0]:
                os.kill(self.pid, signal.SIGKILL)
                yield ("hang",)
                break
            data = os.read(self._read, 1 << 20)
            if not data:
                break
            buffer += data
            while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
                yield pickle.loads(buffer[4 : 4 + size])
                buffer = buffer[4 + size :]
        os.close(self._read)
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            yield ("broke", f"signal {os.WTERMSIG(status)}")

    def told(self) -> Counter[str]:
        """How often the child has told of a stage that failed."""
        self._lines.seek(0)
        found = Counter(stage.decode() for stage in _TOLD.findall(self._lines.read()))
        self._lines.close()
        return found


def once(work: Callable[[], Any]) -> Any:
    """The result of `work` in a child."""
    for said in Child(lambda say: say("result", work())).said():
        if said[0] == "result":
            return said[1]
        raise RuntimeError(f"a child that nothing was done to: {said}")
    raise RuntimeError("a child that said nothing")


@dataclass(frozen=True)
class Trial:
    """One site, made to fail in one way during one request."""

    site: int
    fault: str
    ask: str

    def __str__(self) -> str:
        return f"{hook.sites[self.site]}: {self.ask}, {self.fault}"


# ---- one kind ---------------------------------------------------------------------------------------


class Run:
    """One kind, installed and not yet asked anything."""

    def __init__(self, name: str) -> None:
        self.kind = apps.KINDS[name]
        bare = self.kind.make()
        self.asks: dict[str, apps.Ask] = {**self.kind.asks, "scrape": self._scrape}
        self.bare = {ask: once(lambda do=do: do(bare)[0]) for ask, do in self.asks.items()}
        self.unsteady = [
            ask for ask, do in self.asks.items() if once(lambda do=do: do(bare)[0]) != self.bare[ask]
        ]
        for ask in self.unsteady:  # what is different from one time to the next shows nothing
            del self.asks[ask]
        _watch_counting()
        presence.LISTEN_AFTER_S = 0.0005
        self.app = obskit.install(self.kind.make(), service="shop", **self.kind.options)
        if self.kind.under_load:
            self._listening = socket.create_server(
                ("127.0.0.1", 0)
            )  # or there were no heirs, and nothing waited
            pipelines.FEW = 1
        self.cold: dict[str, set[int]] = {}
        self.warm: dict[str, set[int]] = {}
        self.effects: list[str] = []
        self.quiet: Counter[int] = Counter()
        self.loud: Counter[int] = Counter()
        self.totals: Counter[str] = Counter()
        self.in_time: Callable[[], bool] = lambda: True
        self.behind: set[int] = set()
        """Sites that only a fault leads to."""
        for ask in self.asks:
            self.cold[ask], self.warm[ask], failed = once(lambda ask=ask: self._record(ask))
            if failed:
                self.effects.append(f"{ask}: {failed} errors of our own where nothing was made to fail")

    def _load(self) -> None:
        """As many requests as it takes for records to wait: said, not sent."""
        if self.kind.under_load:
            self.app.pipeline._together.until_ns = 1 << 62

    def _scrape(self, app: Any) -> tuple[Any, BaseException | None]:
        do = talk.ask_wsgi if self.kind.interface == "wsgi" else talk.ask_asgi
        return do(app, "/metrics")

    def _record(self, ask: str) -> tuple[set[int], set[int], int]:
        hook.hits = set()
        self._load()
        self.asks[ask](self.app)
        cold = hook.hits
        self.asks[ask](self.app)
        hook.hits = set()
        self.asks[ask](self.app)
        warm, hook.hits = hook.hits, None
        return cold - warm, warm, counted["internal_error"]

    def unlike(self, ask: str, answer: Any, error: BaseException | None) -> str | None:
        """What is different from the answer of the bare application; None if nothing is."""
        if ask == "scrape":
            if self.kind.interface == "wsgi":
                status = next((e[1][:3] for e in answer["events"] if e[0] == "start"), "none")
            else:
                status = str(next((m["status"] for m in answer["sent"] if "status" in m), "none"))
            # 403: nobody could tell who asks. 404 or whatever it answers: nobody could tell that it is not asked.
            fine = status in ("200", "503", "403") or answer == self.bare[ask]
            return None if fine and error is None else f"{status} {error!r}"
        answer = _without_ids(answer) if self.kind.options.get("echo_request_id") else answer
        bare = self.bare[ask]
        for key, value in bare.items():
            if answer[key] != value:
                return f"{key}: {answer[key]!r} instead of {value!r}; {_where(error)}"
        return None

    # ---- sites ----

    def try_sites(self, trials: list[Trial], *, cold: bool = False) -> None:
        """Each trial in turn, in one child; those behind a hang in another one."""
        while trials and self.in_time():
            trials = self._try(trials, cold=cold)

    def _try(self, trials: list[Trial], *, cold: bool) -> list[Trial]:
        def work(say: Callable[..., None]) -> None:
            self._load()
            for ask in dict.fromkeys(trial.ask for trial in trials if not cold):
                self.asks[ask](self.app)
            for trial in trials:
                say(*self._one(trial))

        child = Child(work)
        done = 0
        for what, *said in child.said():
            trial = trials[min(done, len(trials) - 1)]
            if what == "tried":
                done += 1
                self._heard(trial, *said)
            else:
                done += 1
                self.effects.append(f"{trial}: {what} {' '.join(map(str, said))}")
        for stage, times in child.told().items():
            self.totals["told"] += times
            if times > 1:
                self.effects.append(f"{trials[0]} and behind: told {times} times of {stage}")
        return trials[done:]

    def _one(self, trial: Trial) -> tuple[Any, ...]:
        thrown: list[BaseException] = []

        def ending() -> BaseException:
            error = shapes.ENDINGS[trial.fault]()
            if threading.current_thread() is threading.main_thread():  # a thread of ours ends alone
                thrown.append(error)
            return error

        ends = trial.fault in shapes.ENDINGS
        hook.hits = set()
        before = counted.copy()
        hook.arm(trial.site, shapes.raising(ending) if ends else shapes.FAULTS[trial.fault])
        began = time.perf_counter()
        answer, error = self.asks[trial.ask](self.app)
        took = time.perf_counter() - began
        reached, behind = bool(hook.disarm()), hook.hits
        hook.hits = None
        wrong = None
        if not ends:
            wrong = self.unlike(trial.ask, answer, error)
        elif thrown and not any(error is one for one in thrown):
            wrong = f"swallowed: {error!r} came out"
        elif thrown and not self.kind.framework and len(answer["closed"]) != len(talk.made):
            wrong = f"{len(talk.made)} bodies, closed {len(answer['closed'])} times"
        # A first request waits a second for what hangs, and no longer; a scrape waits for its page.
        if took > 1.4 and trial.ask != "scrape":
            wrong = f"{wrong or 'right, but'} took {took:.1f} s"
        return "tried", reached, dict(counted - before), wrong, behind

    def _heard(
        self, trial: Trial, reached: bool, grown: dict[str, int], wrong: str | None, behind: set[int]
    ) -> None:
        self.totals["requests"] += 1
        self.behind |= behind
        if wrong is not None:
            self.effects.append(f"{trial}: {wrong}")
        if not reached:
            return
        if trial.fault in shapes.ENDINGS:
            self.totals["endings"] += 1
            return
        self.totals["injected"] += 1
        self.totals["hung"] += trial.fault == "hang"
        if grown:
            self.totals["counted"] += 1
            self.loud[trial.site] += 1
        elif trial.fault in shapes.RAISES:
            self.totals["quiet"] += 1
            self.quiet[trial.site] += 1
        else:
            self.totals["accepted"] += 1

    def try_pairs(self, pairs: list[tuple[str, int, str, int, str]]) -> None:
        """Arm two sites at once, for one request each."""

        def work(say: Callable[..., None]) -> None:
            self._load()
            for ask in dict.fromkeys(pair[0] for pair in pairs):
                self.asks[ask](self.app)
            for pair in pairs:
                ask, one, its, other, others = pair
                hook.arm(one, shapes.FAULTS[its])
                hook.arm(other, shapes.FAULTS[others])
                answer, error = self.asks[ask](self.app)
                reached = len(hook.disarm())
                say("tried", pair, reached, self.unlike(ask, answer, error))

        pending = list(pairs)
        child = Child(work)
        for what, *said in child.said():
            if what == "tried":
                (ask, one, its, other, others), reached, unlike = said
                pending.pop(0)
                self.totals["pairs"] += 1
                self.totals["pairs reached"] += reached == 2
                if unlike is not None:
                    first, second = hook.sites[one], hook.sites[other]
                    self.effects.append(f"{first} {its} + {second} {others}: {ask}: {unlike}")
            else:
                ask, one, its, other, others = pending[0]
                self.effects.append(
                    f"{hook.sites[one]} {its} + {hook.sites[other]} {others}: {ask}: {what} {said}"
                )
        child.told()


def _where(error: BaseException | None) -> str:
    last, at = (None if error is None else error.__traceback__), ""
    while last is not None:
        if "/src/obskit/" in last.tb_frame.f_code.co_filename:
            at = f"{last.tb_frame.f_code.co_filename.rpartition('/')[2]}:{last.tb_lineno}"
        last = last.tb_next
    return f"last of ours: {at}" if at else ""


def _without_ids(answer: Any) -> Any:
    """An answer without the header that was asked for."""
    out = talk.Answer(answer)
    if "events" in answer:
        out["events"] = [
            (*e[:2], tuple(h for h in e[2] if h[0] != "X-Request-ID"), *e[3:]) if e[0] == "start" else e
            for e in answer["events"]
        ]
    else:
        out["sent"] = [
            {**m, "headers": tuple(h for h in m["headers"] if h[0] != b"x-request-id")}
            if "headers" in m
            else m
            for m in answer["sent"]
        ]
    return out


def armable(numbers: set[int]) -> list[int]:
    return sorted(number for number in numbers if exempt.reason(hook.sites[number]) is None)


def budget(seconds: float) -> Callable[[], bool]:
    """Whether so much processor time, of this process and its children, is not spent yet; at most five times as long.

    Not the time that passes: a machine that has other things to do would be asked less.
    """
    before, began = sum(os.times()[:4]), time.monotonic()
    return lambda: sum(os.times()[:4]) - before < seconds and time.monotonic() - began < 5 * seconds


def pairs_of(run: Run, rng: random.Random, limit: int) -> list[tuple[str, int, str, int, str]]:
    """Pairs of sites that one request reaches (or that a fault in the first leads to): all, or so many of them."""
    behind = armable(run.behind)
    found: list[tuple[str, int, str, int, str]] = []
    faults = [*shapes.RAISES, *shapes.GARBAGE]
    everywhere = [(ask, armable(sites)) for ask, sites in run.warm.items()]
    total = sum(len(sites) * (len(sites) + len(behind)) for _, sites in everywhere)
    share = min(1.0, limit / max(1, total))
    for ask, sites in everywhere:
        for one in sites:
            others = [other for other in sites if other > one] + [b for b in behind if b not in run.warm[ask]]
            for other in others:
                if share == 1.0 or rng.random() < share:
                    found.append((ask, one, rng.choice(faults), other, rng.choice(faults)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=apps.KINDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the sites that are tried, at random")
    parser.add_argument("--pairs", type=int, default=0, help="at most so many pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--asks", type=int, default=1000, help="requests per site, of those that reach it")
    parser.add_argument("--no-cold", action="store_true", help="leave out what only a first request reaches")
    parser.add_argument(
        "--seconds", type=float, default=3600.0, help="of processor time; begin nothing new then"
    )
    parser.add_argument("--skip", help="a part of FILE:LINE:COLUMN")
    parser.add_argument("--only", help="a part of FILE:LINE:COLUMN")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = random.Random(given.seed)
    began = time.monotonic()
    run = Run(given.kind)
    run.in_time = budget(given.seconds)

    def chosen(numbers: set[int]) -> list[int]:
        found = armable(numbers)
        if given.skip:
            found = [one for one in found if given.skip not in hook.sites[one].name]
        if given.only:
            return [one for one in found if given.only in hook.sites[one].name]
        return [one for one in found if given.share >= 1 or rng.random() < given.share]

    in_time = run.in_time

    warm = set[int]().union(*run.warm.values())
    cold = set[int]().union(*run.cold.values()) - warm
    trials: list[Trial] = []
    for number in chosen(warm):
        asks = [ask for ask, sites in run.warm.items() if number in sites]
        if len(asks) > given.asks:
            asks = rng.sample(asks, given.asks)
        faults = [one for one in shapes.FAULTS if one != "hang" or exempt.may_hang(hook.sites[number])]
        trials += [Trial(number, fault, ask) for ask in asks for fault in faults]
        trials += [
            Trial(number, fault, ask)
            for ask in [one for one in asks if one not in ("scrape", "lifespan")][:4]
            for fault in shapes.ENDINGS
            # no coroutine can raise it past an await
            if not (run.kind.interface == "asgi" and fault == "GeneratorExit")
            and exempt.passes(hook.sites[number], fault, framework=run.kind.framework)
        ]
    at = 0
    while at < len(trials) and in_time():
        run.try_sites(trials[at : at + BATCH])
        at += BATCH
    if not given.no_cold:
        for number in chosen(cold):
            ask = next(ask for ask, sites in run.cold.items() if number in sites)
            hangs = ("hang",) if exempt.may_hang(hook.sites[number]) else ()
            for fault in ("Exception", "unusable", *hangs):
                if in_time():
                    run.try_sites([Trial(number, fault, ask)], cold=True)
    if given.pairs:
        pairs = pairs_of(run, rng, given.pairs)
        while pairs and in_time():
            run.try_pairs(pairs[:BATCH])
            pairs = pairs[BATCH:]
    found = {
        "kind": given.kind,
        "sites": len(hook.sites),
        "hit": sorted(hook.sites[one].name for one in warm | cold),
        "exempt": {str(hook.sites[n]): r for n in warm | cold if (r := exempt.reason(hook.sites[n]))},
        "in_time": in_time(),
        "unsteady": run.unsteady,
        "totals": dict(run.totals),
        "effects": run.effects,
        "quiet": {str(hook.sites[n]): times for n, times in run.quiet.items() if not run.loud[n]},
        "took_s": round(time.monotonic() - began, 1),
    }
    given.out.write_text(json.dumps(found, indent=1))
    sys.stdout.flush()
    os._exit(0)  # nothing of ours is to be flushed


if __name__ == "__main__":
    main()
