"""One upstream of a set: its connections, what is known about it, and its counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from serve.decoder import Tokenizer
from serve.upstream.client import BROKEN, EngineClient
from serve.upstream.dialect import EngineDialect
from serve.upstream.health import Outcome
from serve.upstream.probe import PROBE_SECONDS, ProbeFailed, probe
from serve.upstream.routing import Upstream

MemberState: TypeAlias = Literal["healthy", "ejected", "probing", "draining", "down"]
# Checks that time out in a row until an upstream counts as gone: an engine may be too busy to answer one of them.
MOST_LATE = 3


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """State of an upstream, for `/health`, `/props` and `/metrics`.

    Attributes:
        name: its URL.
        engine: name of the engine; "" if it has not answered yet.
        state: "healthy", "ejected" (it fails or is slow), "probing" (it is tried again), "draining" or "down".
        reason: why it is down, else "".
        slots: requests that it computes at once.
        outcomes: number of requests by how they ended there.
    """

    name: str
    engine: str
    state: MemberState
    slots: int = 0
    in_flight: int = 0
    reason: str = ""
    outcomes: dict[str, int] = field(default_factory=dict)


class UpstreamMember:
    """An upstream. Its set's lock protects the attributes; `check` and the client need no lock.

    Attributes:
        dialect: how to talk to it; None if it has not answered since it was last gone.
        reason: why it gets no requests; "" if it gets some.
        outcomes: number of requests by how they ended.
    """

    def __init__(
        self, client: EngineClient, model: str, n_ctx: int | None, slots: int | None
    ) -> None:
        self.client = client
        self._model, self._n_ctx, self._slots = model, n_ctx, slots
        self.dialect: EngineDialect | None = None
        self.reason = "not asked yet"
        self.outcomes = {o.value: 0 for o in Outcome}
        self._n_late = 0

    @property
    def name(self) -> str:
        """URL of the upstream."""
        return self.client.address.name

    @property
    def n_slots(self) -> int:
        """Number of requests that it computes at once."""
        return self._slots or (self.dialect.facts.slots if self.dialect else 0)

    @property
    def route(self) -> Upstream:
        """Facts for the router."""
        return Upstream(self.name, slots=self.n_slots)

    def check(self, tokenizer: Tokenizer) -> tuple[EngineDialect | None, str]:
        """Ask the upstream whether it is there; return its dialect, or None and the reason why it cannot be used."""
        known = self.dialect
        try:
            if known is None:
                return probe(self.client, tokenizer, model=self._model, n_ctx=self._n_ctx), ""
            status, _ = self.client.ask(known.health, timeout=PROBE_SECONDS)
        except ProbeFailed as e:
            return None, str(e)
        except TimeoutError:
            self._n_late += 1
            late = f"{self._n_late} health checks timed out"
            return (None, late) if self._n_late >= MOST_LATE else (known, "")
        except BROKEN as e:
            return None, f"it does not answer: {e or type(e).__name__}"
        self._n_late = 0
        return (known, "") if status == 200 else (None, f"{known.health}: status {status}")

    def status(self, state: MemberState, in_flight: int) -> UpstreamStatus:
        """Return its state; `state` and `in_flight` are the router's."""
        engine = self.dialect.facts.engine if self.dialect else ""
        outcomes = dict(self.outcomes)
        return UpstreamStatus(
            self.name, engine, state, self.n_slots, in_flight, self.reason, outcomes
        )
