"""Reuse of cached tokens that are not a prefix of the new prompt.

Editors send a window of the file around the cursor. With each new line the window loses its first line, so the prompt
shares no prefix with the previous one, although nearly all of its tokens are cached. Two ways to reuse them:

    grown   The cached tokens stay in place, and the new tokens follow. The sequence then begins with the lines
            that left the window: exactly what the model would compute for a longer window, of which only the new
            tokens are computed.
    moved   Pieces of the cached tokens are moved to new positions, by rotating their keys. For a window that has
            grown too much, a deleted line, or files in another order. The moved values were computed after other
            text, so the logits differ: by a KL of 0.027 nats for the next token of SmolLM2-135M in Q8_0, over 36 moves
            of a window of 120 lines (scripts/bench_reuse.py; the longer context of a grown window changes it by 0.023).
            Without the first tokens of the sequence it was 0.89: models attend to the first position if they have
            nothing else to attend to (arXiv:2309.17453), so these tokens always stay.

New tokens can only be computed at the end of a sequence, so in both ways all reused tokens precede them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from serve.decoder import Decoder
from serve.engine.sequence import Sequence as EngineSequence
from serve.engine.slots import Slots
from serve.prefix_tree import common_prefix

# A piece of a cached sequence: its first position and its number of tokens.
Piece: TypeAlias = tuple[int, int]

# Minimum number of reused tokens that exceed the common prefix: fewer are as fast to compute.
LEAST_GAIN: Final = 64
# Minimum length of a piece, so that pieces do not begin at common sequences such as indentation.
LEAST_PIECE: Final = 32
# Tokens that are looked up to find where a piece begins.
_KEY: Final = 8
# Tokens at the start of a window that may be cached as others: where a text is cut, its first line is tokenized
# differently. No line begins with more tokens that depend on the cut.
_MOST_SKIPPED: Final = 16
# First tokens that stay in front of a window that is moved. One is enough for the models tried, StreamingLLM uses 4.
SINK: Final = 4
# A grown sequence has at most this share of the prompt's tokens in front of the prompt: attention reads them in every
# step. With a window of 1,000 tokens, about 50 lines are appended before a piece has to be moved.
GROWTH_SHARE: Final = 2


@dataclass(frozen=True, slots=True)
class Reuse:
    """How a sequence begins with cached tokens.

    Attributes:
        tokens: the sequence: the prompt, except that cached tokens may precede it.
        pieces: the cached tokens that it begins with, in this order.
    """

    tokens: list[int]
    pieces: tuple[Piece, ...]

    @property
    def n(self) -> int:
        """Number of reused tokens."""
        return sum(n for _, n in self.pieces)

    @property
    def n_left(self) -> int:
        """Number of tokens to compute."""
        return len(self.tokens) - self.n

    @property
    def is_moved(self) -> bool:
        """Whether any token changes its position."""
        return len(self.pieces) > 1


def find_slot(
    sequence: EngineSequence, keep: int, slots: Slots, decoder: Decoder
) -> tuple[int, Reuse] | None:
    """Return the idle slot that saves the most computation, and how; None if there is none.

    A sequence that has already run goes on with the tokens that it had.

    Args:
        sequence: a queued sequence.
        keep: number of its tokens that need no computation anyway.
        slots: the slots, with the tokens that they hold.
        decoder: the model of the slots.
    """
    n, request = len(sequence.tokens), sequence.request
    if sequence.n_scored or sequence.began is not None or n - keep <= LEAST_GAIN:
        return None
    room = decoder.n_ctx - request.n_most + sequence.n_generated
    best: tuple[int, Reuse] | None = None
    for slot in slots.idle():
        if slots.all[slot].adapters != request.adapters:
            continue
        reuse = find_reuse(
            slots.all[slot].cached,
            sequence.tokens,
            request.window,
            room,
            decoder.piece,
            can_move=decoder.can_move and slots.is_alone(slot),
        )
        if reuse and (not best or reuse.n_left < best[1].n_left):
            best = slot, reuse
    return best if best and n - keep - best[1].n_left >= LEAST_GAIN else None


def find_reuse(
    cached: list[int],
    prompt: list[int],
    window: int,
    room: int,
    piece: Callable[[int], bytes],
    *,
    can_move: bool,
) -> Reuse | None:
    """Return the best way to reuse cached tokens beyond the common prefix; None if there is none worth it.

    Args:
        cached: tokens of a slot.
        prompt: tokens of the new prompt; the last one is never reused, since its logits are needed.
        window: index of the first token of the text that may have lost its beginning, such as 1 after a
            begin-of-sequence token.
        room: maximum length of the sequence before generation.
        piece: token id → bytes.
        can_move: whether the model's keys can be rotated to other positions.
    """
    keep = common_prefix(cached, prompt)
    if len(prompt) - keep <= LEAST_GAIN or len(cached) - keep < LEAST_PIECE:
        return None
    index = _index(cached)
    found: list[Reuse] = []
    if keep >= window and (slid := _slid(cached, prompt, window, index, piece)):
        at, start, n_same = slid
        grown = cached[:start] + prompt[at:]
        n = common_prefix(cached, grown)
        extra = len(grown) - len(prompt)
        if len(grown) <= room and extra <= len(prompt) // GROWTH_SHARE:
            found.append(Reuse(grown, ((0, min(n, len(grown) - 1)),)))
        elif can_move:
            sink, first = window or SINK, start - n_same
            if first > sink:
                tokens = cached[:sink] + cached[first:start] + prompt[at:]
                found.append(_pieces(cached, tokens, [(0, sink)], first, index))
    if can_move and keep:
        found.append(_pieces(cached, prompt, [(0, keep)], None, index))
    found = [r for r in found if len(r.tokens) <= room and r.n - keep >= LEAST_GAIN]
    # A grown sequence is exact: prefer it to one with moved tokens if that has nearly as many to compute.
    return min(found, key=lambda r: r.n_left + LEAST_PIECE * r.is_moved, default=None)


def _index(cached: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
    """Return the positions of each run of `_KEY` tokens."""
    found: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(cached) - _KEY + 1):
        found.setdefault(tuple(cached[i : i + _KEY]), []).append(i)
    return found


def _slid(
    cached: list[int],
    prompt: list[int],
    window: int,
    index: dict[tuple[int, ...], list[int]],
    piece: Callable[[int], bytes],
) -> tuple[int, int, int] | None:
    """Find the continuation of the window in the cached tokens; return None if there is none.

    Returns:
        A position in the prompt, the same in the cache, and how many cached tokens in front of the latter have the text
        that the window has in front of the former.
    """
    for at in range(window, min(window + _MOST_SKIPPED, len(prompt) - _KEY)):
        skipped = b"".join(map(piece, prompt[window:at]))
        runs = [
            (common_prefix(cached[start:], prompt[at:]), start, n_same)
            for start in index.get(tuple(prompt[at : at + _KEY]), ())
            if start > at
            and (n_same := _n_ending(cached[window:start], skipped, piece)) is not None
        ]
        n, start, n_same = max(runs, default=(0, 0, 0))
        if n >= LEAST_GAIN:
            return at, start, n_same
    return None


def _n_ending(tokens: Sequence[int], text: bytes, piece: Callable[[int], bytes]) -> int | None:
    """Return how many of the last tokens contain `text` at their end; None if the tokens end with another text."""
    found, n = b"", 0
    while len(found) < len(text) and n < len(tokens):
        n += 1
        found = piece(tokens[-n]) + found
    return n if found.endswith(text) else None


def _pieces(
    cached: list[int],
    tokens: list[int],
    pieces: list[Piece],
    start: int | None,
    index: dict[tuple[int, ...], list[int]],
) -> Reuse:
    """Return the reuse that begins with `pieces` and continues with as many more as possible.

    Args:
        cached: tokens of a slot.
        tokens: the new sequence.
        pieces: pieces that are known to fit.
        start: position in the cache of the next piece; None looks for it.
        index: see `_index`.
    """
    at = sum(n for _, n in pieces)
    while at < len(tokens) - 1:
        starts = index.get(tuple(tokens[at : at + _KEY]), ()) if start is None else [start]
        n, start = max(((_run(cached, tokens, s, at, pieces), s) for s in starts), default=(0, 0))
        if n < LEAST_PIECE:
            break
        # Tokens that both pieces could give come from the later one: another piece may need the earlier ones.
        first, n_first = pieces[-1]
        back = 0
        while back < n_first - 1 and start - back > first + n_first:
            if cached[start - back - 1] != tokens[at - back - 1]:
                break
            back += 1
        pieces = [*pieces[:-1], (first, n_first - back), (start - back, n + back)]
        at += n
        start = None
    return Reuse(tokens, tuple(pieces))


def _run(cached: list[int], tokens: list[int], start: int, at: int, used: Sequence[Piece]) -> int:
    """Return how many tokens from `start` on are the ones from `at` on, and not in a used piece."""
    end = min((first for first, n in used if first + n > start), default=len(cached))
    return common_prefix(cached[start:end], tokens[at : len(tokens) - 1]) if end > start else 0
