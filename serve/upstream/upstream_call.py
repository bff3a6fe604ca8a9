"""One request at the upstreams: sending it, reading its answer, and ending it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Final, Protocol

from serve.decoder import Tokenizer
from serve.request import EndDetail, Finished, GenerationRequest, TextDelta, Usage
from serve.runner.generation import Generation
from serve.upstream.client import BROKEN, EngineStream
from serve.upstream.dialect import (
    END,
    EngineCall,
    EngineDialect,
    EngineError,
    EnginePiece,
    NotUnderstood,
    prompt_text,
)
from serve.upstream.health import Outcome
from serve.upstream.progress import Misspelled, UpstreamProgress
from serve.upstream.try_end import TryEnd, failed, refused
from serve.upstream.upstream_set import UpstreamTry
from turbopilot.base.errors import (
    DeadlineExceeded,
    UpstreamFailed,
)

log = logging.getLogger("turbopilot.upstream")

_LEAST_WAIT: Final = 0.001  # seconds; a timeout of 0 would not wait for data that is already there
_TAIL_SECONDS: Final = 1.0  # for the token counts that follow the last piece of text


class Respelling(Enum):
    """How a completion re-spells the end of the prompt, which the prompt of the engine then lacks."""

    NONE = "not at all: the prompt is whole"
    THERE = "the engine re-spells it, as ours does"
    FREE = "the engine happens to begin with it"
    HELD = "a grammar holds the engine to it"


class TimedText(Protocol):
    """Function that counts the seconds between two texts."""

    def __call__(self, since: float, now: float, *, is_first: bool) -> None:
        """Count the seconds between two texts."""


class UpstreamCall:
    """A request that the runner has accepted.

    Args:
        generation: the generation that it belongs to.
        index: its index there.
        lock: shared by the generation's requests: only one may deliver at a time.
        tokenizer: the model's tokenizer.
        clock: returns seconds.
        timed: called for each text with the time of the one before, or of the request's beginning, and its own.
        seed: seed for the engine; None lets it choose.

    Attributes:
        streamed: whether the client has got text.
        is_cancelled: whether its answer is not needed any more.
        how: see `Finished`, if it was cancelled.
    """

    def __init__(
        self,
        generation: Generation,
        index: int,
        lock: threading.Lock,
        tokenizer: Tokenizer,
        clock: Callable[[], float],
        timed: TimedText,
        *,
        seed: int | None,
    ) -> None:
        self.generation, self.index = generation, index
        self.request: GenerationRequest = generation.requests[index]
        self._lock, self._tokenizer, self._clock = lock, tokenizer, clock
        self._timed, self._seed = timed, seed
        self.began = self._last_at = clock()
        self._until = None if self.request.deadline is None else self.began + self.request.deadline
        self._stream: EngineStream | None = None
        self.progress: UpstreamProgress | None = None
        self._texts: list[TextDelta] = []  # those that the client does not get before the end
        self.streamed = self.is_cancelled = False
        self.how: EndDetail = ""

    def cancel(self, how: EndDetail = "") -> None:
        """End the request; its last event follows from the thread that runs it."""
        if not self.is_cancelled:
            self.how, self.is_cancelled = how, True
            if stream := self._stream:
                stream.cancel()

    def end(self, last: Finished) -> None:
        """Deliver the last event of the request, and the texts that were kept for it."""
        texts = () if last.error else self._texts
        with self._lock:
            for event in (*texts, last):
                self.generation.deliver(self.index, event)

    @property
    def usage(self) -> Usage:
        """Token counts and times so far."""
        return self.progress.usage if self.progress else Usage(self.request.n_prompt, 0)

    def attempt(self, attempt: UpstreamTry) -> TryEnd:
        """Run the request at an upstream, and deliver its text.

        A completion that does not begin with the characters before the cursor is asked for in another way.
        """
        dialect = attempt.member.dialect
        began = self._clock()
        if dialect is None:  # it went away since it was chosen
            return self._failed(attempt, began, "it is gone")
        try:
            for spelling in self._spellings(dialect):
                with suppress(Misspelled):
                    return self._run(attempt, dialect, spelling)
            raise NotUnderstood("its answer does not continue the prompt")
        except TimeoutError:
            return self._late(attempt, began)
        except BROKEN as e:
            return self._failed(attempt, began, str(e) or type(e).__name__)
        except (NotUnderstood, EngineError) as e:
            return self._failed(attempt, began, str(e))
        except Exception as e:  # an answer may have anything in the place of anything
            log.debug("an answer of %s", attempt.member.name, exc_info=e)
            reason = f"its answer is not that of {dialect.engine} ({type(e).__name__}: {e})"
            return self._failed(attempt, began, reason)

    def _spellings(self, dialect: EngineDialect) -> Iterator[Respelling]:
        """Yield the ways to ask an engine for the text at the cursor, until one continues it."""
        if self.request.healing is None:
            yield Respelling.NONE
        elif dialect.heals:
            yield Respelling.THERE
        else:
            yield Respelling.FREE
            if dialect.can_hold_to(self.request.healing):
                yield Respelling.HELD
            yield Respelling.NONE

    def _run(self, attempt: UpstreamTry, dialect: EngineDialect, spelling: Respelling) -> TryEnd:
        began = self._clock()
        heals_here = spelling in (Respelling.FREE, Respelling.HELD)
        self.progress = UpstreamProgress(
            self.request, self._tokenizer, self.began, heals_here=heals_here
        )
        self._texts.clear()
        limit = None if attempt.limit is None else began + attempt.limit
        stream = self._stream = EngineStream(attempt.member.client)
        try:
            if self.is_cancelled:
                return self._cancelled(began)
            body = json.dumps(dialect.body(self._engine_call(dialect, spelling))).encode()
            status = stream.start(dialect.path, body, self._timeout(limit))
            if status != 200:
                return refused(attempt.member.name, self._clock() - began, status, stream.rest())
            self._read(stream, dialect, limit)
            if self.progress.ended is None:
                raise NotUnderstood("its answer ended early")
            first = self.progress.first_at or self._clock()
            return TryEnd(Outcome.OK, first - began, self._last())
        finally:
            self._stream = None
            stream.close()

    def _read(self, stream: EngineStream, dialect: EngineDialect, limit: float | None) -> None:
        """Read the answer until it ends, and deliver its text. Within `limit`, the first text must come."""
        progress = self.progress
        assert progress
        for piece in self._pieces(stream, dialect, limit):
            for delta in progress.take(piece, self._clock()):
                self._send(delta)
            if progress.ended and piece.finish:
                self._read_tail(stream, dialect)
            if progress.ended:
                return

    def _pieces(
        self, stream: EngineStream, dialect: EngineDialect, limit: float | None
    ) -> Iterator[EnginePiece]:
        while line := stream.line(self._timeout(limit)):
            event = dialect.event(line)
            if event is END:
                return
            if event is not None and (piece := dialect.piece(event, self._tokenizer)):
                limit = None if piece.text or piece.token_ids else limit
                yield piece

    def _read_tail(self, stream: EngineStream, dialect: EngineDialect) -> None:
        """Read the token counts after the text, and the end of the response, which keeps the connection usable."""
        assert self.progress
        with suppress(*BROKEN, NotUnderstood, EngineError, KeyError, TypeError, ValueError):
            while line := stream.line(_TAIL_SECONDS):
                event = dialect.event(line)
                if event and (piece := dialect.piece(event, self._tokenizer)):
                    self.progress.note_counts(piece)

    def _send(self, delta: TextDelta) -> None:
        now = self._clock()
        self._timed(self._last_at, now, is_first=self._last_at == self.began)
        self._last_at = now
        if self.generation.is_whole:
            self._texts.append(delta)
            return
        self.streamed = True
        with self._lock:
            self.generation.deliver(self.index, delta)

    def _engine_call(self, dialect: EngineDialect, spelling: Respelling) -> EngineCall:
        request, healing = self.request, self.request.healing
        prompt, n_most = request.prompt, request.max_tokens
        if healing and spelling is Respelling.NONE:
            prompt = (*prompt[: healing.at], *healing.tokens, *prompt[healing.at :])
        elif spelling is not Respelling.THERE:
            n_most = request.n_most
        fim = self._tokenizer.fim
        return EngineCall(
            request,
            prompt if dialect.takes_ids else prompt_text(self._tokenizer, prompt),
            max(1, n_most),
            respells=healing.tokens if healing and spelling is Respelling.THERE else (),
            holds_to=healing if spelling is Respelling.HELD else None,
            ends=tuple(sorted(fim.ends)) if fim else (),
            seed=self._seed,
        )

    def _timeout(self, limit: float | None) -> float | None:
        """Return the seconds until the deadline or the limit, whichever is first."""
        ends = [t for t in (limit, self._until) if t is not None]
        return max(_LEAST_WAIT, min(ends) - self._clock()) if ends else None

    @property
    def _is_late(self) -> bool:
        return self._until is not None and self._clock() >= self._until - _LEAST_WAIT

    def _last(self, *, is_late: bool = False) -> Finished:
        progress = self.progress
        assert progress
        assert progress.ended
        how: EndDetail = "deadline" if is_late else ""
        return Finished(progress.ended, progress.usage, None, progress.stop_string, how)

    def _late(self, attempt: UpstreamTry, began: float) -> TryEnd:
        """End a try that took too long: because of the deadline, or only at this upstream."""
        waited = self._clock() - began
        if not self._is_late:
            error = UpstreamFailed(f"{attempt.member.name} sent no token for {waited:.0f} s")
            return TryEnd(Outcome.TIMED_OUT, waited, error=error)
        if self.progress and self.progress.n_new:
            for delta in self.progress.expire():
                self._send(delta)
            first = self.progress.first_at or self._clock()
            return TryEnd(Outcome.OK, first - began, self._last(is_late=True))
        late = DeadlineExceeded(
            f"no token was generated within {self.request.deadline:g} s",
            hint="the upstreams are busy: try again, or allow more time",
        )
        return TryEnd(
            Outcome.CANCELLED, waited, Finished("error", self.usage, late, how="deadline")
        )

    def _cancelled(self, began: float) -> TryEnd:
        last = Finished("cancelled", self.usage, how=self.how)
        return TryEnd(Outcome.CANCELLED, self._clock() - began, last)

    def _failed(self, attempt: UpstreamTry, began: float, reason: str) -> TryEnd:
        if self.is_cancelled:
            return self._cancelled(began)
        return failed(attempt.member.name, self._clock() - began, reason)
