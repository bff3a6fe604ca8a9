"""The upstreams of a front: which are there, which one gets a request, and the thread that checks them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, cast

from serve.decoder import Tokenizer
from serve.request import GenerationRequest
from serve.upstream.address import EngineAddress
from serve.upstream.client import EngineClient
from serve.upstream.health import Outcome
from serve.upstream.member import MemberState, UpstreamMember, UpstreamStatus
from serve.upstream.retry import Tries
from serve.upstream.routing import RouteKey, Router, prompt_key
from turbopilot.base.errors import ContextLengthExceeded, TurboPilotError
from turbopilot.base.threads import start_thread

log = logging.getLogger("turbopilot.upstream")

CHECK_SECONDS: Final = 2.0  # between two checks of all upstreams
_MOST_CHECKERS: Final = 16


@dataclass(frozen=True, slots=True)
class UpstreamTry:
    """A try of a request: at which upstream, and the seconds in which its first token must come (None: no limit)."""

    member: UpstreamMember
    limit: float | None


class UpstreamSet:
    """Upstreams that come and go. Callable from any thread.

    Args:
        addresses: URLs of the upstreams; `replace` changes them.
        tokenizer: tokenizer of their model.
        key: API key for all of them; "" is none.
        model: model name for their requests; "" means the first one that each lists.
        n_ctx: context in tokens to assume for engines that do not report it.
        slots: requests that each computes at once; None means what it reports.
        clock: returns seconds.
    """

    def __init__(
        self,
        addresses: Iterable[EngineAddress],
        tokenizer: Tokenizer,
        *,
        key: str = "",
        model: str = "",
        n_ctx: int | None = None,
        slots: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokenizer, self._clock = tokenizer, clock
        self._key, self._model, self._n_ctx, self._slots = key, model, n_ctx, slots
        self._lock = threading.Lock()
        self._members: dict[str, UpstreamMember] = {}
        self._router = Router()
        self._wake = threading.Event()
        self._is_closed = False
        self.n_retries = 0  # tries after the first one of a request
        self._set(addresses)

    def replace(self, urls: Iterable[str | EngineAddress]) -> None:
        """Set the upstreams. New ones are checked at once; those that leave finish their requests.

        Raises:
            InvalidInput: a URL cannot be used.
        """
        self._set(EngineAddress.parse(u) if isinstance(u, str) else u for u in urls)
        self._wake.set()

    def _set(self, addresses: Iterable[EngineAddress]) -> None:
        wanted = {a.name: a for a in addresses}
        with self._lock:
            gone = [m for name, m in self._members.items() if name not in wanted]
            self._members = {
                name: self._members.get(name) or self._member(a) for name, a in wanted.items()
            }
            self._update()
        for member in gone:
            member.client.close()

    def _member(self, address: EngineAddress) -> UpstreamMember:
        client = EngineClient(address, self._key)
        return UpstreamMember(client, self._model, self._n_ctx, self._slots)

    def _update(self) -> None:
        """Give the router the upstreams that are there."""
        there = (m for m in self._members.values() if not m.reason)
        self._router.replace(m.route for m in there)

    def start(self) -> None:
        """Start the thread that checks the upstreams."""
        start_thread(self._watch, "turbopilot-upstreams")

    def _watch(self) -> None:
        while not self._is_closed:
            self._wake.wait(CHECK_SECONDS)
            self._wake.clear()
            if not self._is_closed:
                self.check()

    def check(self) -> None:
        """Ask every upstream whether it is there, several at a time, and wait for the answers."""
        with self._lock:
            members = list(self._members.values())
        if not members:
            return
        with ThreadPoolExecutor(min(len(members), _MOST_CHECKERS)) as checkers:
            found = list(checkers.map(lambda m: m.check(self._tokenizer), members))
        with self._lock:
            for member, (dialect, reason) in zip(members, found, strict=True):
                if reason != member.reason:
                    log.log(
                        logging.WARNING if reason else logging.INFO,
                        "upstream %s: %s", member.name, reason or "ready",
                    )  # fmt: skip
                member.dialect, member.reason = dialect, reason
            self._update()

    def close(self) -> None:
        """Stop checking, and close all connections as their requests end."""
        self._is_closed = True
        self._wake.set()
        self._set(())

    @property
    def n_slots(self) -> int:
        """Number of requests that all upstreams together compute at once."""
        with self._lock:
            return sum(m.n_slots for m in self._members.values() if not m.reason)

    @property
    def n_ctx(self) -> int | None:
        """The shortest context of the upstreams; None if none reports it."""
        with self._lock:
            found = [m.dialect.facts.n_ctx for m in self._members.values() if m.dialect]
        return min((n for n in found if n is not None), default=None)

    @property
    def trouble(self) -> str:
        """Reason why no upstream can get requests; "" if one can."""
        with self._lock:
            reasons = [f"{m.name}: {m.reason}" for m in self._members.values()]
            if any(not m.reason for m in self._members.values()):
                return ""
        return (
            f"no upstream is available: {'; '.join(reasons)}" if reasons else "there is no upstream"
        )

    @property
    def statuses(self) -> tuple[UpstreamStatus, ...]:
        """State of each upstream."""
        with self._lock:
            routed = {s.name: s for s in self._router.states(self._clock())}
            found = []
            for m in self._members.values():
                state = routed.get(m.name)
                shown = "down" if m.reason or state is None else state.state
                in_flight = state.in_flight if state else 0
                found.append(m.status(cast("MemberState", shown), in_flight))
            return tuple(found)

    def tries(self, request: GenerationRequest) -> Tries:
        """Return the tries of a request, at upstreams that can answer it.

        Raises:
            InvalidRequest: none has what the request needs.
            ContextLengthExceeded: it is too long for all of them.
        """
        key = RouteKey(request.supersedes, request.file, prompt_key(request.prompt))
        refusals: dict[str, TurboPilotError] = {}
        with self._lock:
            there = [(m, m.dialect) for m in self._members.values() if m.dialect and not m.reason]
            for member, dialect in there:
                n_ctx = dialect.facts.n_ctx
                refusal: TurboPilotError | None = dialect.refuse(request)
                if n_ctx is not None and request.n_prompt + request.max_tokens > n_ctx:
                    refusal = ContextLengthExceeded(
                        f"the prompt ({request.n_prompt} tokens) and max_tokens ({request.max_tokens}) do not fit into "
                        f"the upstream's context of {n_ctx} tokens"
                    )
                if refusal:
                    refusals[member.name] = refusal
            if refusals and len(refusals) == len(there):
                raise next(iter(refusals.values()))
            return Tries(self._router, key, excluded=refusals)

    def next(self, tries: Tries) -> UpstreamTry | None:
        """Begin a try; None if no upstream is left for it."""
        with self._lock:
            while found := tries.next(self._clock()):
                if member := self._members.get(found.name):
                    return UpstreamTry(member, found.limit)
                # It was replaced while the router still drains it.
                tries.ended(Outcome.CANCELLED, self._clock(), 0.0, streamed=False)
        return None

    def ended(
        self,
        tries: Tries,
        member: UpstreamMember,
        outcome: Outcome,
        waited: float,
        *,
        streamed: bool,
    ) -> bool:
        """End the running try; return whether the request may be tried again. See `Tries.ended`."""
        with self._lock:
            member.outcomes[outcome.value] += 1
            was_ejected = self._router.is_ejected(member.name)
            again = tries.ended(outcome, self._clock(), waited, streamed=streamed)
            self.n_retries += again
            is_ejected = self._router.is_ejected(member.name)
        if is_ejected and not was_ejected:
            log.warning("upstream %s: ejected, as it fails or is slow", member.name)
        elif was_ejected and not is_ejected:
            log.info("upstream %s: back, as it has answered", member.name)
        return again
