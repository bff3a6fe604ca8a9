"""Windows of tokens that both models read, and the positions at which their logits are compared.

A wrong weight shows everywhere, a wrong rotation only in long contexts, and a lost special token only in
fill-in-the-middle prompts, so there are windows of each kind, in a dozen languages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from turbopilot.base.errors import InvalidInput
from turbopilot.verify.source import LogitsSource, Window
from turbopilot.verify.texts import code_samples

POSITIONS: Final = 4000
"""Default number of compared positions."""
MOST_CONTEXT: Final = 8192
"""Longest window in tokens, unless the whole context is requested: the cost of attention is quadratic."""

_CODE = 256  # tokens of a window of code: short, so that many languages fit in the budget
_FIM = 384  # tokens of a fill-in-the-middle prompt
_MOVED, _MOVED_LONG, _MOVED_WINDOWS = 96, 512, 8
_GREEDY_AFTER, _GREEDY_WINDOWS = 96, 3


# Prefix, suffix and middle tokens of each model family. Source: the model cards.
FIM_SPELLINGS: Final = (
    (
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
    ),  # StarCoder(2), Granite, Mellum, Refact, stable-code
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),  # Seed-Coder
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Codestral
)


def fim_tokens(model: LogitsSource) -> tuple[int, ...] | None:
    """Return the ids of the model's prefix, suffix and middle tokens; None if it has none."""
    for spelling in FIM_SPELLINGS:
        ids = [model.tokenize(text) for text in spelling]
        if all(len(one) == 1 for one in ids) and len({one[0] for one in ids}) == 3:
            return tuple(one[0] for one in ids)
    return None


def windows_of(
    reference: LogitsSource, n_ctx: int, *, positions: int = POSITIONS, full: bool = False
) -> list[Window]:
    """Return the built-in windows: one as long as the context, fill-in-the-middle prompts, and code.

    Both models read the reference's token ids, so that a tokenizer fault does not look like a fault in the weights.

    Args:
        reference: provides the tokenizer.
        n_ctx: the smaller of the two models' context lengths.
        positions: approximate number of positions to compare.
        full: compare every position of the whole context, and all code samples.
    """
    samples = {name: reference.tokenize(text) for name, text in code_samples().items()}
    length = n_ctx if full else min(n_ctx, MOST_CONTEXT)
    found = [_context(samples, length, length if full else max(1, positions // 2))]
    found += _fim(reference, length, len(found[0].ids) if full else positions)
    left = math.inf if full else positions - sum(len(w.measured) for w in found)
    for window in _code(samples, min(_CODE, length)):
        if left < 1:
            break
        window = window.cut(int(min(left, len(window.ids))))
        found.append(window)
        left -= len(window.ids)
    return found


def windows_of_prompts(reference: LogitsSource, prompts: Sequence[str], n_ctx: int) -> list[Window]:
    """Return one window for each user prompt, cut to the context length; raise InvalidInput if one is empty."""
    found = []
    for i, prompt in enumerate(prompts):
        ids = tuple(reference.tokenize(prompt)[:n_ctx])
        if not ids:
            raise InvalidInput(f"prompt {i} is empty", hint="give prompts of at least one token")
        found.append(Window("code", f"prompt {i}", ids, range(len(ids))))
    if not found:
        raise InvalidInput("there are no prompts", hint="give prompts of at least one token")
    return found


def windows_of_change(windows: Sequence[Window]) -> list[Window]:
    """Return shortened copies of some windows, enough to measure the reference's sensitivity."""
    long = [w.cut(_MOVED_LONG) for w in windows if w.kind == "context"]
    short = [w.cut(_MOVED) for w in windows if w.kind != "context"]
    step = max(1, len(short) // _MOVED_WINDOWS)
    return long + short[::step][:_MOVED_WINDOWS]


def beginnings(windows: Sequence[Window], n_ctx: int, n: int) -> list[Window]:
    """Return short windows that both models continue by n tokens."""
    code = [w for w in windows if w.kind == "code"] or list(windows)
    room = min(_GREEDY_AFTER, n_ctx - n)
    return [w.cut(room) for w in code[:_GREEDY_WINDOWS] if room > 0]


def _context(samples: Mapping[str, Sequence[int]], length: int, most: int) -> Window:
    """Return a window as long as the context, filled with all samples, repeated as needed."""
    together = [i for ids in samples.values() for i in ids]
    ids = (together * math.ceil(length / max(1, len(together))))[:length]
    step = math.ceil(length / most)
    # Evenly spaced, and including the last position.
    return Window("context", "context", tuple(ids), range((length - 1) % step, length, step))


def _fim(reference: LogitsSource, length: int, positions: int) -> list[Window]:
    """Return fill-in-the-middle prompts, each followed by the expected middle."""
    special = fim_tokens(reference)
    if special is None:
        return []
    prefix, suffix, middle = special
    quarter = max(8, min(_FIM, length, positions // 8) // 4)
    found = []
    for name, text in list(code_samples().items())[::7]:
        third = len(text) // 3
        before, hole, after = (
            reference.tokenize(part) for part in (text[:third], text[third:-third], text[-third:])
        )
        ids = (
            prefix, *before[-2 * quarter :], suffix, *after[:quarter], middle, *hole[:quarter],
        )[:length]  # fmt: skip
        found.append(Window("fim", f"{name}, fill-in-the-middle", ids, range(len(ids))))
    return found


def _code(samples: Mapping[str, Sequence[int]], size: int) -> Iterator[Window]:
    """Yield the first `size` tokens of every sample, then the next `size`, and so on."""
    for start in range(0, max(map(len, samples.values())), size):
        for name, ids in samples.items():
            if piece := tuple(ids[start : start + size]):
                yield Window("code", f"{name} from token {start}", piece, range(len(piece)))
