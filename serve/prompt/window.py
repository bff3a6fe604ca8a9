"""What the model reads: text, other files and the cursor's surroundings, cut to the context. Pure; knows no HTTP.

Clients count tokens with other tokenizers and ask for more than fits, so too long a prompt is no error:
it loses what is farthest from the cursor, never its structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from serve.decoder import Tokenizer
from serve.prompt.fim import ContextFile, Frame, find_frame, framed, plain
from serve.settings import FimOrder

# Where not all can have what they ask for, the answer gets at least this share of the context, other files this share
# of what the prompt gets, and the suffix this share of the rest. The text before the cursor says most about what
# follows it.
ANSWER_SHARE = 4
FILES_SHARE = 4
SUFFIX_SHARE = 4
# Nothing beyond this many characters per cell of the context is tokenized: it would be cut off anyway
# (source code has 3 to 4 characters a token; 31 spaces are one).
CHARS_PER_TOKEN = 32


# What somebody wants continued: a text, or token ids, which are taken as they are.
PromptText: TypeAlias = str | tuple[int, ...]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids that fit, and what was given up for that: parts of "prompt", "input_extra", "max_tokens"."""

    tokens: tuple[int, ...]
    max_tokens: int
    truncated: tuple[str, ...] = ()


def build_prompt(
    tokenizer: Tokenizer,
    before: PromptText,
    after: str | None = None,
    *,
    n_ctx: int,
    max_tokens: int,
    max_prompt: int | None = None,
    files: Sequence[ContextFile] = (),
    name: str = "",
    order: FimOrder = "psm",
) -> Prompt:
    """Tokenize, frame for fill-in-the-middle where there is a suffix and the model can, and fit.

    Args:
        tokenizer: of the model.
        before: what is before the cursor.
        after: the text after it; None is no place to fill in, "" is one at the end of a file.
        n_ctx: tokens that prompt and answer may have together.
        max_tokens: tokens that are wanted of the answer.
        max_prompt: tokens that the prompt may have even where more would fit; None is no limit.
        files: others, those that matter most at the end.
        name: of the file that is edited; "" is unknown.
        order: see `framed`.

    Special tokens that a client wrote into a plain prompt count as such (some editors frame by
    themselves). Where we frame, names of special tokens in the text are only text, as in a file that is
    about tokenizers.
    """
    limit = n_ctx * CHARS_PER_TOKEN
    too_long = any(isinstance(t, str) and len(t) > limit for t in (before, after))
    # The others could not fit, and need not be tokenized.
    files = _last_that_fit(files, limit, lambda file: len(file.text))
    fim = tokenizer.fim
    if not isinstance(before, str):
        parts = find_frame([], list(before), fim)
    elif fim and (files or after is not None):
        after = (after or "")[:limit]
        parts = framed(tokenizer, fim, before[-limit:], after, files, name=name, order=order)
    elif files:
        parts = plain(tokenizer, tokenizer.tokenize(before[-limit:], parse_special=False), files)
    else:
        tokens = tokenizer.tokenize(before[-limit:], parse_special=True)
        # Chat templates write it themselves.
        needs_start = tokenizer.adds_bos and tokens[:1] != [tokenizer.start_token]
        parts = find_frame([tokenizer.start_token] if needs_start else [], tokens, fim)
    if not parts.n_tokens:
        parts.head = [tokenizer.start_token]

    most = n_ctx if max_prompt is None else min(n_ctx, max_prompt)
    allowed = _answer_length(min(parts.n_tokens, most), n_ctx, max_tokens)
    fitted = _fit(parts, min(n_ctx - allowed, most))
    lost = {
        "prompt": fitted.n_tokens - fitted.n_files < parts.n_tokens - parts.n_files or too_long,
        "input_extra": len(fitted.files) < len(parts.files),
        "max_tokens": allowed < max_tokens,
    }
    return Prompt(fitted.tokens, allowed, tuple(name for name, is_lost in lost.items() if is_lost))


def _answer_length(n_prompt: int, n_ctx: int, max_tokens: int) -> int:
    """How many tokens may be generated: what is asked for or left, at least a share of the context."""
    least = min(max_tokens, max(1, n_ctx // ANSWER_SHARE))
    return max(least, min(max_tokens, n_ctx - n_prompt))


def _fit(parts: Frame, room: int) -> Frame:
    """The same prompt in at most `room` tokens."""
    if parts.n_tokens <= room:
        return parts
    if parts.n_structure > room:  # all that can be kept is the end
        return Frame(list(parts.tokens[-room:]), [], [], [], [], [], [])
    room -= parts.n_structure
    n_before, n_after = len(parts.before), len(parts.after)
    files_room = max(room // FILES_SHARE, room - n_before - n_after)
    files = _last_that_fit(parts.files, files_room, len)
    room -= sum(map(len, files))
    n_after = min(n_after, max(room // SUFFIX_SHARE, room - n_before))
    n_before = min(n_before, room - n_after)
    return Frame(
        parts.head,
        files,
        parts.opening,
        parts.before[len(parts.before) - n_before :],
        parts.between,
        parts.after[:n_after],
        parts.closing,
        parts.order,
    )


def _last_that_fit(files: Sequence[T], room: int, size: Callable[[T], int]) -> Sequence[T]:
    """Whole files, the last of them first."""
    for at in range(len(files) - 1, -1, -1):
        room -= size(files[at])
        if room < 0:
            return files[at + 1 :]
    return files
