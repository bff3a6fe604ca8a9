"""Log probabilities in the dialects' forms, and which tokens a text consists of."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count
from serve.request import ChosenToken, TokenLogprob

# Log probability that is reported of an impossible token, since JSON has no infinity. Source: OpenAI's API.
IMPOSSIBLE = -9999.0


class LegacyLogprobs(TypedDict):
    """Lists of the same length, one item a token; null for a prompt's first, which has nothing before it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[Count]


class TopToken(TypedDict):
    """A token with its log probability; llama.cpp's form has its id, too."""

    id: NotRequired[Count]
    token: str
    logprob: float | None
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class DetailedLogprob(TopToken):
    """A token of the text, and the likeliest ones in its place."""

    top_logprobs: list[TopToken]


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token and where in the text it begins, in characters."""

    token: ChosenToken
    offset: int


class PlacedTokens:
    """Finds each token's place in a text, and holds back those whose text may yet be cut off.

    A token is handed out when its first character is certain; what a stop string cuts off never is. Special tokens,
    which are no text, never are either.

    Args:
        offset: where the text begins.
    """

    def __init__(self, offset: int = 0) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._next = offset
        self._certain = offset
        self._held: list[PlacedToken] = []

    def feed(self, tokens: Iterable[ChosenToken], n_characters: int) -> list[PlacedToken]:
        """Return the tokens that are certain now.

        Args:
            tokens: those generated since the last call.
            n_characters: how much text became certain since.
        """
        for t in tokens:
            if t.token.data:
                self._held.append(PlacedToken(t, self._next))
                self._next += len(self._decoder.decode(t.token.data))
        self._certain += n_characters
        n = sum(t.offset < self._certain for t in self._held)
        ready, self._held = self._held[:n], self._held[n:]
        return ready


def token_text(data: bytes) -> str:
    r"""A token's bytes as text; a part of a character as OpenAI writes it: `bytes:\xe2\x80`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{b:02x}" for b in data)


def legacy_logprobs(tokens: Sequence[PlacedToken], n_top: int) -> LegacyLogprobs:
    """OpenAI's form for completions."""
    return {
        "tokens": [token_text(t.token.token.data) for t in tokens],
        "token_logprobs": [_number(t.token.token) for t in tokens],
        "top_logprobs": [_top(t.token) for t in tokens] if n_top else None,
        "text_offset": [t.offset for t in tokens],
    }


def _top(chosen: ChosenToken) -> dict[str, float | None] | None:
    """The likeliest by their texts, and the chosen one."""
    if math.isnan(chosen.token.logprob):
        return None
    found: dict[str, float | None] = {}
    for t in (*chosen.top, chosen.token):
        found.setdefault(token_text(t.data), _number(t))
    return found


def detailed_logprobs(tokens: Iterable[PlacedToken], *, ids: bool = False) -> list[DetailedLogprob]:
    """OpenAI's form for chat and, with `ids`, llama.cpp's."""
    return [
        {**_detail(t.token.token, ids), "top_logprobs": [_detail(o, ids) for o in t.token.top]}
        for t in tokens
    ]


def _detail(token: TokenLogprob, ids: bool) -> TopToken:
    found: TopToken = {
        "token": token_text(token.data),
        "logprob": _number(token),
        "bytes": list(token.data),
    }
    return {"id": token.id, **found} if ids else found


def _number(token: TokenLogprob) -> float | None:
    if math.isnan(token.logprob):
        return None
    return max(token.logprob, IMPOSSIBLE)
