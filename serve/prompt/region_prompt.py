"""Prompts of next-edit models that a client has framed: finding the lines to rewrite, and shortening.

Zed, cursortab.nvim and Continue send such prompts to the routes for completions and chats. The completion repeats
most of the lines, so they are a source of draft tokens. A prompt that does not fit into the context loses whole
sections first (other files and old changes), then text around the lines to rewrite, never those lines or the model's
markers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from serve.decoder import Tokenizer
from serve.prompt import sweep, zeta

# Prompts of more parts are not shortened by parts: each part is tokenized separately.
MOST_PARTS: Final = 1000
# Tokens of the whole beyond those of its parts, and the start token.
SLACK: Final = 8
# Maximum characters per token: 31 spaces can be one token.
MOST_CHARS: Final = 32
# What is left of a part that is too long: nothing, its end, or its beginning.
Kept = Literal["nothing", "end", "beginning"]


@dataclass(frozen=True, slots=True)
class PromptPart:
    """Part of a prompt.

    Attributes:
        order: parts with the lowest number are shortened first, of equal ones the first; 0 is never shortened.
    """

    text: str
    order: int = 0
    kept: Kept = "nothing"


@dataclass(frozen=True, slots=True)
class RegionPrompt:
    """A framed prompt.

    Attributes:
        parts: the prompt in parts.
        expected: the completion if the model changes nothing.
    """

    parts: tuple[PromptPart, ...]
    expected: str

    def fitted(self, room: int, tokenizer: Tokenizer) -> str:
        """Return the prompt, shortened to at most `room` tokens if its fixed parts allow that."""
        room -= SLACK

        def count(text: str) -> int:
            if len(text) > room * MOST_CHARS:  # it does not fit: do not tokenize it
                return len(text)
            return len(tokenizer.tokenize(text, parse_special=True))

        parts = list(self.parts)
        sizes = [count(p.text) for p in parts]
        places = [i for i, p in enumerate(parts) if p.order]
        for i in sorted(places, key=lambda i: parts[i].order):
            if (excess := sum(sizes) - room) <= 0:
                break
            parts[i] = replace(parts[i], text=_shortened(parts[i], sizes[i] - excess, count))
            sizes[i] = count(parts[i].text)
        return "".join(p.text for p in parts)


def _shortened(part: PromptPart, room: int, count: Callable[[str], int]) -> str:
    """Return as many whole lines of a part as have `room` tokens together."""
    if part.kept == "nothing" or room <= 0:
        return ""
    lines = part.text.splitlines(keepends=True)
    if part.kept == "end":
        lines.reverse()
    kept: list[str] = []
    for line in lines:
        room -= count(line)
        if room < 0:
            break
        kept.append(line)
    return "".join(reversed(kept) if part.kept == "end" else kept)


def find_regions(prompt: str) -> RegionPrompt | None:
    """Return the parts of a framed prompt; None if it is not one."""
    found = next(filter(None, (read(prompt) for read in (_sweep, _seed, _excerpt))), None)
    return found if found and len(found.parts) <= MOST_PARTS else None


_SECTIONS: Final = re.compile(f"(?={re.escape(sweep.SECTION)})")
_FILES: Final = re.compile(f"(?={re.escape(zeta.FILE)})")
_REGION: Final = re.compile(f"{re.escape(zeta.CURRENT)}|{zeta.MARKER.pattern}")
# The parts of Zeta's and Instinct's prompts that may be left out.
_BLOCKS: Final = re.compile(r"^(?=User (?:edited|renamed) |<\|context_file\|>|### )", re.MULTILINE)
_EXCERPT: Final = re.compile(r"^### User Excerpts?:\n", re.MULTILINE)
_CONTEXT: Final = re.compile(r"^### (?:Context|User Edits):\n+", re.MULTILINE)


def _sweep(prompt: str) -> RegionPrompt | None:
    if f"{sweep.SECTION}updated/" not in prompt:
        return None
    head, *sections = _SECTIONS.split(prompt)
    if len(sections) < 2 or not sections[-1].startswith(f"{sweep.SECTION}updated/"):
        return None
    *context, current, updated = sections
    if not current.startswith(f"{sweep.SECTION}current/"):
        return None
    original = f"{sweep.SECTION}original/"
    parts = [PromptPart(s, 2 if s.startswith(original) else 1) for s in context]
    lines = current.partition("\n")[2].replace(sweep.CURSOR, "")
    prefill = updated.partition("\n")[2]
    expected = lines[len(prefill) :] if lines.startswith(prefill) else ""
    return RegionPrompt((PromptPart(head), *parts, PromptPart(current + updated)), expected)


def _seed(prompt: str) -> RegionPrompt | None:
    """Return the parts of a prompt of Zeta 2 or 2.1."""
    if not prompt.startswith(zeta.SUFFIX) or zeta.MIDDLE not in prompt:
        return None
    suffix, prefix, rest = prompt[len(zeta.SUFFIX) :].partition(zeta.PREFIX)
    rest, middle, prefill = rest.rpartition(zeta.MIDDLE)
    *files, last = _FILES.split(rest)
    region = _REGION.search(last)
    if not (prefix and region):
        return None
    header, newline, before = last[: region.start()].partition("\n")
    marked = last[region.start() :]
    lines = marked.replace(zeta.CURSOR, "")
    if region[0] == zeta.CURRENT:
        lines = lines.removeprefix(zeta.CURRENT).rpartition(zeta.SEPARATOR)[0] + zeta.UPDATED
    return RegionPrompt(
        (
            PromptPart(zeta.SUFFIX),
            PromptPart(suffix, 3, "beginning"),
            PromptPart(prefix),
            *(PromptPart(f, 1) for f in files),
            PromptPart(header + newline),
            PromptPart(before, 2, "end"),
            PromptPart(marked + middle + prefill),
        ),
        lines[len(prefill) :] if lines.startswith(prefill) else "",
    )


def _excerpt(prompt: str) -> RegionPrompt | None:
    """Return the parts of a prompt of Zeta or Instinct."""
    end = prompt.rfind(zeta.ZETA_END)
    excerpts = list(_EXCERPT.finditer(prompt)) if end >= 0 else []
    if not excerpts:
        return None
    at = excerpts[-1].end()
    start = prompt.find(zeta.ZETA_START, at)
    if not at <= start < end:
        return None
    context = _CONTEXT.search(prompt)
    first = context.end() if context and context.end() <= at else excerpts[-1].start()
    header, before = _split_header(prompt[at:start])
    after, tail = _split_tail(prompt[end + len(zeta.ZETA_END) :])
    lines = prompt[start + len(zeta.ZETA_START) : end].replace(zeta.ZETA_CURSOR, "")
    is_zeta = prompt.rstrip().endswith("### Response:")
    expected = f"{zeta.ZETA_START}{lines}{zeta.ZETA_END}" if is_zeta else lines.strip("\n")
    return RegionPrompt(
        (
            PromptPart(prompt[:first]),
            *_blocks(prompt[first : excerpts[-1].start()]),
            PromptPart(excerpts[-1][0] + header),
            PromptPart(before, 2, "end"),
            PromptPart(prompt[start : end + len(zeta.ZETA_END)]),
            PromptPart(after, 3, "beginning"),
            PromptPart(tail),
        ),
        expected,
    )


def _blocks(text: str) -> Iterator[PromptPart]:
    """Yield the changes and context files, which may be left out, and the headings, which stay."""
    body = text.rstrip("\n")
    for block in _BLOCKS.split(body):
        if block.startswith("### "):
            heading, newline, block = block.partition("\n")
            yield PromptPart(heading + newline)
        yield PromptPart(block, 1)
    yield PromptPart(text[len(body) :])


def _split_header(text: str) -> tuple[str, str]:
    """Split off the lines with the name of the file: "```name" in Zeta's prompts, the name and an empty line else."""
    found = re.match(r"\n*```.*\n|.*\n\n", text)
    end = found.end() if found else 0
    return text[:end], text[end:]


def _split_tail(text: str) -> tuple[str, str]:
    """Split off the end of the excerpt, and all that follows."""
    at = text.rfind("```")
    return (text[:at], text[at:]) if at >= 0 else (text, "")
