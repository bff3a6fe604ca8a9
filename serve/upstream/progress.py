"""Progress of one completion that an upstream generates: our rules for text, applied to the pieces that arrive."""

from __future__ import annotations

from dataclasses import replace

from serve.decoder import Tokenizer
from serve.request import FinishReason, GenerationRequest, TextDelta, Usage
from serve.sampling.healing import cut_to
from serve.text import TextStream
from serve.upstream.dialect import EnginePiece


class Misspelled(Exception):
    """The completion does not begin with the text before the cursor that it should re-spell."""


class UpstreamProgress:
    """Text and token counts of one request.

    Args:
        request: the request.
        tokenizer: knows the tokens that end a completion.
        heals_here: whether the engine continues a shortened prompt, so that the text begins with the characters that it
            re-spells. False if the prompt is whole, or the engine removes them.

    Attributes:
        ended: why the text ended; None if it has not.
        n_cached: prompt tokens that the engine had in its KV cache.
        first_at, last_at: times of the first and the latest text.
    """

    def __init__(
        self, request: GenerationRequest, tokenizer: Tokenizer, began: float, *, heals_here: bool
    ) -> None:
        self._request, self._tokenizer = request, tokenizer
        self._text = TextStream(request.stop)
        healing = request.healing if heals_here else None
        self._rest = healing.text if healing else b""  # bytes that the engine has still to re-spell
        self._counts = healing is not None
        self._n_generated = self._n_spelled = 0
        self._has_line = self._has_ended = False
        self._prompt_seconds: float | None = None
        self._began = began
        self.ended: FinishReason | None = None
        self.n_cached = 0
        self.first_at: float | None = None
        self.last_at = began

    def take(self, piece: EnginePiece, now: float) -> list[TextDelta]:
        """Add a piece; return the text that became certain, if any.

        Raises:
            Misspelled: the text does not begin with the characters to re-spell; nothing was returned before.
        """
        self.note_counts(piece)
        data = self._new_text(piece)
        if data:
            self.first_at = now if self.first_at is None else self.first_at
            self.last_at, self._has_line = now, self._has_line or b"\n" in data
        if self._request.max_tokens == 0:
            self.ended = "length" if piece.finish or data else None
            return []
        text = self._text.feed(data) if data else ""
        chosen = piece.chosen
        if chosen and data != piece.text.encode():
            chosen = cut_to(chosen, data)
        if self._text.stopped:
            self.ended = "stop"
        elif reason := self._reason(piece, now):
            self.ended = reason
            text += self._text.finish()
        if not (text or chosen):
            return []
        usage = self.usage if self._request.reports_usage else None
        return [TextDelta(text, chosen, usage)]

    def note_counts(self, piece: EnginePiece) -> None:
        """Add the token counts and times of a piece."""
        n_ends = sum(map(self._tokenizer.is_eog, piece.token_ids))
        if piece.n_total is not None:
            self._n_generated = piece.n_total - n_ends
        else:
            self._n_generated += max(0, piece.n_tokens - n_ends)
        self._has_ended = n_ends > 0
        if piece.n_cached is not None:
            self.n_cached = min(piece.n_cached, self._request.n_prompt)
        if piece.prompt_seconds is not None:
            self._prompt_seconds = piece.prompt_seconds

    def _new_text(self, piece: EnginePiece) -> bytes:
        """Return the bytes of a piece without those that re-spell the end of the prompt."""
        data = piece.text.encode("utf-8", "replace")
        if not self._rest:
            return data
        if not all(self._is_allowed(token, data) for token in piece.token_ids[:1]):
            raise Misspelled
        if not (data.startswith(self._rest) or self._rest.startswith(data)):
            raise Misspelled
        if len(data) > len(self._rest) and not data.strip(b" \t"):
            raise Misspelled  # the editor has indented to the cursor
        new = data[len(self._rest) :]
        self._rest = self._rest[len(data) :]
        if not new:
            self._n_spelled = self._n_generated
        if self._rest and piece.finish:
            raise Misspelled
        return new

    def _is_allowed(self, token: int, data: bytes) -> bool:
        """Return whether the engine's next token is one that `Spelling.mask` allows; ends and spaces always are."""
        healing = self._request.healing
        assert healing
        is_whole = data.startswith(self._rest) or not self._rest.strip(b" \t")
        own = token == healing.token_before(len(self._rest))
        return is_whole or own or self._tokenizer.is_eog(token)

    def _reason(self, piece: EnginePiece, now: float) -> FinishReason | None:
        """Return why the completion ends after this piece, other than by a rule for its text."""
        if self._has_ended:
            return "stop"
        if self._counts and self.n_new >= self._request.max_tokens:
            return "length"
        limit, first_at = self._request.predict_time, self.first_at
        has_time = limit is None or first_at is None or now - first_at < limit
        if self._has_line and not has_time:
            return "length"
        return "stop" if piece.finish == "stop" else "length" if piece.finish else None

    def expire(self) -> list[TextDelta]:
        """End the completion because its deadline has passed; return the text that was held back."""
        self.ended = "length"
        text = self._text.finish()
        return [TextDelta(text)] if text else []

    @property
    def n_new(self) -> int:
        """Number of tokens of the completion."""
        return self._n_generated - self._n_spelled

    @property
    def stop_string(self) -> str:
        """The stop string that ended the text, or ""."""
        return self._text.stop_string

    @property
    def usage(self) -> Usage:
        """Token counts and times so far."""
        first = self.last_at if self.first_at is None else self.first_at
        waited = max(0.0, first - self._began)
        prefill, queued = self._prompt_seconds, None
        if prefill is not None and self.first_at is not None:
            queued = max(0.0, waited - prefill)  # in the engine's queue, and on the way
        usage = Usage(self._request.n_prompt, self.n_new, self.n_cached)
        return replace(
            usage,
            prompt_seconds=waited if prefill is None else prefill,
            predict_seconds=max(0.0, self.last_at - first),
            queue_seconds=queued,
        )
