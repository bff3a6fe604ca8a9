"""Model of one server: a queue, slots that are computed together, and a prefix cache.

It follows `serve.engine`: requests are admitted first come, first served; prefill and decode steps alternate; a prompt
begins with the longest cached prefix; a step is not interrupted. Times come from measurements. Left out, so that the
model is slower than the engine: drafts, the reuse of text that moved, and answers of prompts that were cancelled.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from scale.typing_session import Typing

PATIENCE, LONGEST = (
    1.0,
    2.0,
)  # serve.engine.planner: longest prefill step in seconds, beside decoding and alone
LONGEST_PIECE, LEAST_CHUNK = (
    512,
    32,
)  # the same: tokens of a prompt that is alone, and of the smallest piece
FEW = 32  # serve.engine.prefix_store: a prefix replaces another that has at most this many further tokens


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long a replica takes, and how much it can hold.

    Attributes:
        decode: seconds of a step that gives one token to each of 1, 2, … sequences; its length is the number of slots.
        prefill_token: seconds for each prompt token.
        prefill: seconds of a prefill step besides its tokens.
        overhead: seconds of a request besides its steps: HTTP, tokenization.
        n_batch: most tokens of a step.
        cache_tokens: tokens of all cached prefixes; above that, the least recently used are dropped.
    """

    decode: tuple[float, ...]
    prefill_token: float
    prefill: float = 0.0
    overhead: float = 0.0
    n_batch: int = 2048
    cache_tokens: int = 200_000

    @property
    def slots(self) -> int:
        return len(self.decode)


class PrefixCache:
    """Prefixes of a replica, the least recently used dropped first."""

    def __init__(self, typing: Typing, most_tokens: int) -> None:
        self._typing, self._most = typing, most_tokens
        self._tokens: OrderedDict[tuple[int, int], int] = (
            OrderedDict()
        )  # (person, request) → tokens
        self._requests: dict[int, set[int]] = {}  # person → requests
        self._n = 0

    def longest(self, person: int, request: int) -> int:
        """Return how many tokens of a prompt are cached."""
        shared, best, at = self._typing.shared[request], 0, -1
        for other in self._requests.get(person, ()):
            n = min(shared[other], self._tokens[person, other])
            if n > best:
                best, at = n, other
        if at >= 0:
            self._tokens.move_to_end((person, at))
        return min(best, self._typing.tokens[request] - 1)  # the last token is always computed

    def add(self, person: int, request: int, n: int) -> None:
        """Keep the first `n` tokens of a prompt, instead of prefixes that differ from it by a few tokens only."""
        shared = self._typing.shared[request]
        for other in list(self._requests.get(person, ())):
            if min(shared[other], n) >= self._tokens[person, other] - FEW:
                self._drop(person, other)
        if n <= 0:
            return
        self._tokens[person, request] = n
        self._requests.setdefault(person, set()).add(request)
        self._n += n
        while self._n > self._most and len(self._tokens) > 1:
            self._drop(*next(iter(self._tokens)))

    def _drop(self, person: int, request: int) -> None:
        self._n -= self._tokens.pop((person, request))
        requests = self._requests[person]
        requests.discard(request)
        if not requests:
            del self._requests[person]


@dataclass(slots=True, eq=False)
class Job:
    """A request at a replica; `person` differs for each pass of a developer through the trace."""

    session: int
    person: int
    request: int
    replica: int
    sent: float
    to_prefill: int = 0
    to_decode: int = 0
    first: float = -1.0  # time of the first token
    is_admitted: bool = False
    is_cancelled: bool = False


@dataclass(slots=True)
class Totals:
    """Work of all replicas together."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    admitted: int = 0
    busy: float = 0.0


@dataclass(slots=True)
class Replica:
    """One server. `begin` returns when its next step ends; `end` applies it and returns the finished requests.

    While nothing but decoding is left, `begin` plans all steps up to the first end of a completion as one; `interrupt`
    shortens that when a request comes or is cancelled.
    """

    times: StepTimes
    typing: Typing
    totals: Totals
    cache: PrefixCache = field(init=False)
    queue: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    answers: set[tuple[int, int]] = field(
        default_factory=set
    )  # (person, prompt) of finished completions
    version: int = 0  # of the planned step; an event of another version is void
    _pieces: list[tuple[Job, int]] = field(default_factory=list)
    _steps: int = 0
    _step: float = 0.0
    _began: float = 0.0
    _prefilled_last: bool = False
    is_busy: bool = False

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.typing, self.times.cache_tokens)

    def knows(self, job: Job) -> bool:
        """Return whether the same prompt was completed here before: the engine answers it at once."""
        return (job.person, self.typing.same[job.request]) in self.answers

    def begin(self, now: float) -> float | None:
        """Admit requests and plan a step; return its end, or None if there is nothing to do."""
        self._admit()
        prompts = [j for j in self.running if j.to_prefill]
        decoding = len(self.running) - len(prompts)
        self.is_busy = bool(self.running)
        if not self.running:
            return None
        self._began = now
        self._pieces, self._steps = [], 1
        if prompts and not (decoding and self._prefilled_last):
            self._pieces = self._shares(prompts, is_alone=not decoding)
            n = sum(n for _, n in self._pieces)
            self._step = self.times.prefill + n * self.times.prefill_token
        else:
            self._step = self.times.decode[decoding - 1]
            if not prompts:
                self._steps = min(j.to_decode for j in self.running)
        self._prefilled_last = bool(self._pieces)
        return now + self._steps * self._step

    def interrupt(self, now: float) -> float | None:
        """Return the new end of the planned steps if a request comes or ends now; None if it does not change."""
        if self._steps < 2:
            return None
        done = int((now - self._began) / self._step) + 1
        if done >= self._steps:
            return None
        self._steps = done
        return self._began + done * self._step

    def end(self, now: float) -> list[Job]:
        """Apply the planned steps; return the requests that are finished."""
        self.totals.busy += self._steps * self._step
        for job, n in self._pieces:
            job.to_prefill -= n
            if not job.to_prefill and not job.is_cancelled:  # the last piece gives the first token
                job.first = now
                job.to_decode -= 1
                self.totals.generated_tokens += 1
        if not self._pieces:
            for job in self.running:
                if not job.to_prefill:
                    job.to_decode -= self._steps
                    self.totals.generated_tokens += self._steps
        finished = [j for j in self.running if j.is_cancelled or j.to_decode <= 0]
        if finished:
            self.running = [j for j in self.running if not (j.is_cancelled or j.to_decode <= 0)]
        for job in finished:
            n = self.typing.tokens[job.request] - job.to_prefill
            self.cache.add(job.person, job.request, n)
            if not job.is_cancelled:
                self.answers.add((job.person, self.typing.same[job.request]))
        return [j for j in finished if not j.is_cancelled]

    def _admit(self) -> None:
        while self.queue and len(self.running) < self.times.slots:
            job = self.queue.popleft()
            if job.is_cancelled:
                continue
            n = self.typing.tokens[job.request]
            cached = self.cache.longest(job.person, job.request)
            job.to_prefill, job.to_decode = n - cached, self.typing.max_tokens
            job.is_admitted = True
            self.totals.admitted += 1
            self.totals.prompt_tokens += n
            self.totals.cached_tokens += cached
            self.running.append(job)

    def _shares(self, prompts: list[Job], *, is_alone: bool) -> list[tuple[Job, int]]:
        """Divide a prefill step between prompts, the shortest first."""
        seconds = LONGEST if is_alone else PATIENCE
        most = int(seconds / self.times.prefill_token) if self.times.prefill_token else 1 << 30
        left = max(LEAST_CHUNK, min(self.times.n_batch, most))
        if len(prompts) == 1:
            left = min(left, LONGEST_PIECE)
        pieces = []
        for at, job in enumerate(sorted(prompts, key=lambda j: j.to_prefill)):
            n = min(job.to_prefill, max(left // (len(prompts) - at), min(LEAST_CHUNK, left)))
            if not n:
                break
            left -= n
            pieces.append((job, n))
        return pieces
