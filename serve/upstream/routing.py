"""Choice of the upstream for a request, without a clock, threads or sockets.

The caller passes the time and holds a lock.

A request goes to the upstream of its session, else of its file, else of the beginning of its prompt, since that one
has its KV cache. Consistent hashing (`ring`) finds it without a table, the same in every front. No upstream gets more
than `BALANCE` × the mean load; further requests go to the file's home, the prompt's, then along the ring.

Source of the bound: Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv 1608.01350): no
server above ⌈c·m/n⌉ of m requests on n servers. Vimeo, brpc and liblb use c = 1.25 for requests in flight. Ours lets an
upstream have as many as it computes at once (`slots`) in any case: below that, moving a request wins no time and loses
its cached prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from math import ceil
from statistics import median
from typing import Final

from serve.upstream.health import SLOW_FACTOR, SLOW_SECONDS, Health, Outcome
from serve.upstream.ring import HashRing

BALANCE: Final = 1.25
BLOCK_TOKENS: Final = 64
BLOCK_CHARACTERS: Final = (
    4 * BLOCK_TOKENS
)  # about as many characters of code as BLOCK_TOKENS tokens
PREFIX_BLOCKS: Final = 4  # a longer prompt keeps its key while its end changes
_WAITS: Final = 128  # the last times to the first token that a median is taken of
_ENOUGH_WAITS: Final = 16  # of other upstreams, for a median


def prompt_key(prompt: str | Sequence[int]) -> str | None:
    """Return the same key for prompts that share a long beginning; None if the prompt has no whole block.

    The key is the hash of up to `PREFIX_BLOCKS` whole blocks. A prompt that grows changes its key with each of these
    blocks and then no more; what it leaves behind is at most 256 tokens.

    Args:
        prompt: text, or token ids.
    """
    block = BLOCK_CHARACTERS if isinstance(prompt, str) else BLOCK_TOKENS
    blocks = min(len(prompt) // block, PREFIX_BLOCKS)
    if not blocks:
        return None
    start = prompt[: blocks * block]
    data = start if isinstance(start, str) else ",".join(map(str, start))
    return blake2b(data.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class RouteKey:
    """Ties of a request to an upstream, the strongest first; without any, the least loaded gets it."""

    session: str | None = None
    file: str | None = None
    prefix: str | None = None  # prompt_key()

    def ties(self) -> list[str]:
        """Return the texts to hash; equal names of a session and a file differ."""
        named = (("session", self.session), ("file", self.file), ("prefix", self.prefix))
        return [f"{kind}\0{value}" for kind, value in named if value]


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that gets requests.

    Attributes:
        name: identifies it, and its place on the ring.
        weight: its share of the load, relative to that of the others.
        slots: requests that it computes at once; with fewer in flight it is never too loaded.
    """

    name: str
    weight: float = 1.0
    slots: int = 4


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """One upstream in /health; `state` is healthy, ejected, probing or draining."""

    name: str
    state: str
    in_flight: int
    failures: int
    retry_in: float | None  # seconds until an ejected upstream may get a probe


@dataclass(slots=True)
class _Member:
    upstream: Upstream
    in_flight: int = 0
    draining: bool = False
    health: Health = field(default_factory=Health)

    @property
    def load(self) -> float:
        return self.in_flight / self.upstream.weight

    @property
    def open(self) -> bool:
        return not self.draining and self.health.ejected_until is None


class Router:
    """The upstreams, their loads and their health. Not thread-safe.

    Call `pick`, `begin` with the picked name, and `end` when the request is over. `retry.Tries` does all three.
    """

    def __init__(self, upstreams: Iterable[Upstream] = (), balance: float = BALANCE) -> None:
        self._balance = balance
        self._members: dict[str, _Member] = {}
        self._open_load = (
            0  # requests in flight at open members, and their weight: a pick does not add up 1,000
        )
        self._open_weight = 0.0
        self._waits: deque[tuple[str, float]] = deque(maxlen=_WAITS)
        self.replace(upstreams)

    def replace(self, upstreams: Iterable[Upstream]) -> None:
        """Set the upstreams. One that stays keeps its load and health; one that leaves drains."""
        given = {u.name: u for u in upstreams}
        for name, member in self._members.items():
            member.draining = name not in given
        for name, upstream in given.items():
            self._members.setdefault(name, _Member(upstream)).upstream = upstream
        self._ring = HashRing({name: u.weight for name, u in given.items()})
        self._gone = self._members.keys() - given.keys()
        for name in [n for n in self._gone if not self._members[n].in_flight]:
            del self._members[name]
        self._count_open()

    def drain(self, name: str) -> None:
        """Send no further requests to an upstream; `replace` takes it back."""
        self._members[name].draining = True
        self._count_open()

    def pick(self, key: RouteKey, now: float, excluded: Collection[str] = ()) -> str | None:
        """Return the upstream for a request; None if there is none that may get it.

        Args:
            key: what ties the request to an upstream.
            now: seconds on the caller's clock.
            excluded: upstreams that have failed this request.
        """
        is_below_bound = self._bound(excluded)
        for name in self._candidates(key):
            member = self._members[name]
            if name in excluded or member.draining:
                continue
            if is_below_bound(member) if member.open else member.health.may_probe(now):
                return name
        # No upstream is left but slow ones: a late answer is better than none.
        slow = [m for m in self._members.values() if m.health.slow and not m.draining]
        late = [m for m in slow if m.upstream.name not in excluded]
        return min(late, key=lambda m: m.load).upstream.name if late else None

    def begin(self, name: str, now: float) -> bool:
        """Count a request that is sent to an upstream; return whether it is the probe of an ejected one."""
        member = self._members[name]
        member.in_flight += 1
        self._open_load += member.open
        probe = member.health.may_probe(now)
        member.health.probing |= probe
        return probe

    def end(
        self, name: str, outcome: Outcome, now: float, waited: float, *, probe: bool = False
    ) -> None:
        """Count the end of a request.

        Args:
            name: the upstream, as in `begin`.
            outcome: how the request ended.
            now: seconds on the caller's clock.
            waited: seconds from its beginning to its first token; to its end if it had none.
            probe: what `begin` returned.
        """
        member = self._members[name]
        member.in_flight -= 1
        was_open = member.open
        self._open_load -= was_open
        if was_open or member.draining or probe:  # else it began before the ejection
            self._judge(member, outcome, now, waited)
        member.health.probing &= not probe
        if member.open != was_open:
            self._count_open()
        if name in self._gone and not member.in_flight:
            del self._members[name]
            self._gone.discard(name)

    def patience(self, name: str) -> float | None:
        """Return the seconds that a first token of this upstream may take; None while nothing is known of others."""
        others = [wait for of, wait in self._waits if of != name]
        if len(others) < _ENOUGH_WAITS:
            return None
        return max(SLOW_SECONDS, SLOW_FACTOR * median(others))

    def is_ejected(self, name: str) -> bool:
        """Return whether an upstream gets no requests for a while, because it fails or is slow."""
        member = self._members.get(name)
        return member is not None and member.health.ejected_until is not None

    def states(self, now: float) -> list[UpstreamState]:
        """Return the state of every upstream, for /health."""
        return [
            UpstreamState(
                name,
                _state(m, now),
                m.in_flight,
                m.health.failures,
                None if m.health.ejected_until is None else max(0.0, m.health.ejected_until - now),
            )
            for name, m in self._members.items()
        ]

    def _candidates(self, key: RouteKey) -> Iterator[str]:
        """Yield the homes of the key's ties, then the others along the ring; without ties, by load."""
        ties = key.ties()
        if not ties:
            yield from sorted(self._members, key=lambda name: self._members[name].load)
            return
        for tie in ties:
            yield from islice(self._ring.walk(tie), 1)
        yield from self._ring.walk(ties[0])

    def _bound(self, excluded: Collection[str]) -> Callable[[_Member], bool]:
        """Return whether an upstream may get one more request, by the mean load of those that may get this one."""
        left_out = [
            m for name in set(excluded) if (m := self._members.get(name)) is not None and m.open
        ]
        load = 1 + self._open_load - sum(m.in_flight for m in left_out)
        weight = self._open_weight - sum(m.upstream.weight for m in left_out)

        def is_below(member: _Member) -> bool:
            share = self._balance * load * member.upstream.weight / weight
            return member.in_flight < max(member.upstream.slots, ceil(share))

        return is_below

    def _judge(self, member: _Member, outcome: Outcome, now: float, waited: float) -> None:
        """Change the health of an upstream by one outcome.

        Any answer counts as a failure if it was slow. Else a busy one counts only as that of a probe, and a cancelled
        one not at all.
        """
        name, health = member.upstream.name, member.health
        failed = outcome in (Outcome.FAILED, Outcome.TIMED_OUT)
        limit = self.patience(name) if waited > SLOW_SECONDS else None
        slow = outcome is not Outcome.FAILED and limit is not None and waited > limit
        if failed or slow:
            health.fail(now, slow=slow or outcome is Outcome.TIMED_OUT)
        elif outcome in (Outcome.OK, Outcome.REJECTED) or (
            outcome is Outcome.BUSY and health.probing
        ):
            health.succeed()
        if outcome is Outcome.OK:
            self._waits.append((name, waited))

    def _count_open(self) -> None:
        members = [m for m in self._members.values() if m.open]
        self._open_load = sum(m.in_flight for m in members)
        self._open_weight = sum(m.upstream.weight for m in members)


def _state(member: _Member, now: float) -> str:
    if member.draining:
        return "draining"
    if member.health.ejected_until is None:
        return "healthy"
    return "probing" if member.health.probing or member.health.may_probe(now) else "ejected"
