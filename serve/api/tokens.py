"""Log probabilities in the formats of the dialects, and the positions of tokens in a text."""

from __future__ import annotations

import codecs
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count
from serve.request import ChosenToken, TokenLogprob

# Log probability reported for an impossible token, since JSON has no infinity. Source: OpenAI's API.
IMPOSSIBLE = -9999.0


class LegacyLogprobs(TypedDict):
    """Lists with one item per token. Values are null for the first token of a prompt, which has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[Count]


class TopToken(TypedDict):
    """A token with its log probability. `id` is set only in llama.cpp's format."""

    id: NotRequired[Count]
    token: str
    logprob: float | None
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class DetailedLogprob(TopToken):
    """A token of the text, with the most likely tokens at its position."""

    top_logprobs: list[TopToken]


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and its offset in the text, in characters."""

    token: ChosenToken
    offset: int


class PlacedTokens:
    """Tokens with their offsets in a text, held back until their text is final.

    A token is returned as soon as its first character is part of the final text. Tokens cut off by a stop string are
    never returned, nor are special tokens, which have no text.

    Args:
        offset: offset of the text's beginning.
    """

    def __init__(self, offset: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._next = offset
        self._certain = offset
        self._held: list[PlacedToken] = []

    def feed(self, tokens: Iterable[ChosenToken], n_characters: int) -> list[PlacedToken]:
        """Return the tokens that have become final.

        Args:
            tokens: tokens generated since the last call.
            n_characters: number of characters that became final since the last call.
        """
        for t in tokens:
            if t.token.data:
                self._held.append(PlacedToken(t, self._next))
                self._next += len(self._decoder.decode(t.token.data))
        self._certain += n_characters
        n = sum(t.offset < self._certain for t in self._held)
        ready, self._held = self._held[:n], self._held[n:]
        return ready


class TokenTexts:
    """Splits a text into the texts of its tokens, which together are the text.

    A token that ends inside a character has no text; the token that completes the character has it. Of the tokens
    that a stop string cuts off, only the first is returned, with what is left of its text.

    Attributes:
        text: the text so far.
    """

    def __init__(self) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._n_decoded = 0
        self._n_returned = 0
        # Each token with the offset of the text after it.
        self._held: deque[tuple[ChosenToken, int]] = deque()

    def feed(self, text: str, tokens: Iterable[ChosenToken]) -> list[tuple[ChosenToken, str]]:
        """Return the tokens whose text is final, with their texts; the last token is held back for `last`.

        Args:
            text: the text that became final since the last call.
            tokens: tokens generated since the last call.
        """
        self.text += text
        for t in tokens:
            self._n_decoded += len(self._decoder.decode(t.token.data))
            self._held.append((t, self._n_decoded))
        found = []
        while len(self._held) > 1 and self._held[0][1] <= len(self.text):
            token, end = self._held.popleft()
            found.append((token, self.text[self._n_returned : end]))
            self._n_returned = end
        return found

    def last(self) -> list[tuple[ChosenToken, str]]:
        """Return the token that the rest of the text belongs to; nothing if there were no tokens."""
        return [(self._held[0][0], self.text[self._n_returned :])] if self._held else []


def token_text(data: bytes) -> str:
    r"""Return a token's bytes as text; bytes that are not valid UTF-8 in OpenAI's notation: `bytes:\xe2\x80`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in data)


def legacy_logprobs(tokens: Sequence[PlacedToken], n_top: int) -> LegacyLogprobs:
    """Return log probabilities in OpenAI's format for completions."""
    return {
        "tokens": [token_text(t.token.token.data) for t in tokens],
        "token_logprobs": [logprob_number(t.token.token) for t in tokens],
        "top_logprobs": [_top(t.token) for t in tokens] if n_top else None,
        "text_offset": [t.offset for t in tokens],
    }


def _top(chosen: ChosenToken) -> dict[str, float | None] | None:
    """Return the log probabilities of the most likely tokens and of the chosen one, by text."""
    if math.isnan(chosen.token.logprob):
        return None
    found: dict[str, float | None] = {}
    for t in (*chosen.top, chosen.token):
        found.setdefault(token_text(t.data), logprob_number(t))
    return found


def detailed_logprobs(tokens: Iterable[PlacedToken], *, ids: bool = False) -> list[DetailedLogprob]:
    """Return log probabilities in OpenAI's format for chat or, with `ids`, in llama.cpp's format."""
    return [
        {**_detail(t.token.token, ids), "top_logprobs": [_detail(o, ids) for o in t.token.top]}
        for t in tokens
    ]


def _detail(token: TokenLogprob, ids: bool) -> TopToken:
    found: TopToken = {
        "token": token_text(token.data),
        "logprob": logprob_number(token),
        "bytes": list(token.data),
    }
    return {"id": token.id, **found} if ids else found


def logprob_number(token: TokenLogprob) -> float | None:
    """Return a token's log probability for JSON, which has neither NaN nor infinity."""
    if math.isnan(token.logprob):
        return None
    return max(token.logprob, IMPOSSIBLE)
