"""Prompts for fill-in-the-middle: text around the cursor and other files, cut to the context.

Clients count tokens with other tokenizers, so a prompt that is too long is not an error: it loses the text farthest
from the cursor, but keeps its special tokens.

Sources: the papers of StarCoder and SantaCoder (trained on both orders, half of the documents each) and CodeLlama (both
orders); the READMEs of Qwen2.5-Coder, StarCoder2 and DeepSeek-Coder (whole repositories); llama.cpp's `/infill`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from serve.decoder import FimTokens, Tokenizer
from serve.settings import FimOrder

if TYPE_CHECKING:
    from serve.prompt.region_prompt import RegionPrompt

# Name of the repository and of files without a name: the models expect a name.
UNNAMED: Final = "code"
# If not everything fits, the completion gets at least 1/ANSWER_SHARE of the context, the other files 1/FILES_SHARE of
# the prompt, and the suffix 1/SUFFIX_SHARE of the rest. The prefix matters most.
ANSWER_SHARE: Final = 4
FILES_SHARE: Final = 4
SUFFIX_SHARE: Final = 4
# The prefix loses its beginning in steps of 1/WINDOW_STEPS of the prompt. While the user types, the window then begins
# at the same token for many requests, and its KV cache stays valid.
WINDOW_STEPS: Final = 16
# Text beyond this many characters per token of the context is not tokenized: it would be cut off anyway. Source code
# has 3 to 4 characters per token; 31 spaces can be one token.
CHARS_PER_TOKEN: Final = 32

# A text, or token ids that are used as given.
PromptText: TypeAlias = str | tuple[int, ...]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContextFile:
    """Another file, or a part of one, that the prompt has before the edited file."""

    name: str
    text: str


@dataclass(slots=True)
class Prompt:
    """A prompt in parts.

    To fit the context, `before` loses its beginning, `after` its end, and `files` whole files, beginning with the
    first.

    Attributes:
        max_tokens: maximum tokens to generate after the prompt.
        truncated: names of the parts that were shortened to fit: "prompt", "input_extra" or "max_tokens".
    """

    head: list[int]
    files: Sequence[list[int]]
    opening: list[int]
    before: list[int]
    between: list[int]
    after: list[int]
    closing: list[int]
    order: FimOrder = "psm"
    max_tokens: int = 0
    truncated: tuple[str, ...] = ()

    @property
    def n_structure(self) -> int:
        """Number of tokens that are never cut."""
        return sum(map(len, (self.head, self.opening, self.between, self.closing)))

    @property
    def n_tokens(self) -> int:
        """Total number of tokens."""
        return self.n_structure + sum(map(len, (*self.files, self.before, self.after)))

    @property
    def window(self) -> int:
        """Index of the first token of the text around the cursor."""
        return sum(map(len, (self.head, *self.files, self.opening)))

    @property
    def n_text(self) -> int:
        """Number of tokens without the other files."""
        return self.n_tokens - sum(map(len, self.files))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids in the order of the prompt."""
        first, second = self.before, self.after
        if self.order == "spm":
            first, second = second, first
        files = [t for f in self.files for t in f]
        parts = (self.head, files, self.opening, first, self.between, second, self.closing)
        return tuple(t for part in parts for t in part)


class PromptBuilder:
    """Builder of the prompts of one model.

    Args:
        tokenizer: the model's tokenizer.
        n_ctx: maximum tokens of prompt and completion together.
        max_prompt: maximum tokens of the prompt, even if more would fit; None means no limit.
        order: order of prefix and suffix; None is the model's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_ctx: int,
        max_prompt: int | None = None,
        order: FimOrder | None = None,
    ) -> None:
        self._tokenizer, self._n_ctx = tokenizer, n_ctx
        self._order: FimOrder = order or (tokenizer.fim.order if tokenizer.fim else "psm")
        self._most = n_ctx if max_prompt is None else min(n_ctx, max_prompt)

    def build(
        self,
        before: PromptText,
        after: str | None = None,
        *,
        max_tokens: int,
        files: Sequence[ContextFile] = (),
        name: str = "",
        framed: RegionPrompt | None = None,
    ) -> Prompt:
        """Return the tokenized prompt, cut to the context.

        With a suffix, and if the model supports it, the prompt is framed with fill-in-the-middle tokens. Names of
        special tokens then stay text, as in source code about tokenizers. In a plain prompt they become those tokens,
        since some editors send prompts that are already framed.

        Args:
            before: the prefix.
            after: the suffix; None for a plain continuation, "" at the end of a file.
            max_tokens: maximum tokens of the completion.
            files: other files, the most important last.
            name: name of the edited file; "" if unknown.
            framed: the parts of `before`, if it is the prompt of a next-edit model.
        """
        limit = self._n_ctx * CHARS_PER_TOKEN
        # The requested number if there is room for it, but at least a share of the context.
        least = min(max_tokens, max(1, self._n_ctx // ANSWER_SHARE))
        too_long = any(isinstance(t, str) and len(t) > limit for t in (before, after))
        if framed:
            room = min(self._n_ctx - least, self._most)
            whole, before = before, framed.fitted(room, self._tokenizer)
            too_long = before != whole
        if isinstance(before, str):
            # Do not tokenize files that cannot fit.
            files = _last_that_fit(files, limit, lambda file: len(file.text))
            suffix = None if after is None else after[:limit]
            parts = self._parts(before[-limit:], suffix, files, name)
        else:
            parts = find_frame([], list(before), self._tokenizer.fim)
        if not parts.n_tokens:
            parts.head = [self._tokenizer.start_token]

        n_prompt = min(parts.n_tokens, self._most)
        allowed = max(least, min(max_tokens, self._n_ctx - n_prompt))
        fitted = _fit(parts, min(self._n_ctx - allowed, self._most))
        lost = {
            "prompt": fitted.n_text < parts.n_text or too_long,
            "input_extra": len(fitted.files) < len(parts.files),
            "max_tokens": allowed < max_tokens,
        }
        truncated = tuple(name for name, is_lost in lost.items() if is_lost)
        return replace(fitted, max_tokens=allowed, truncated=truncated)

    def _parts(
        self, before: str, after: str | None, files: Sequence[ContextFile], name: str
    ) -> Prompt:
        t, fim = self._tokenizer, self._tokenizer.fim
        head = [t.start_token] if t.adds_bos else []
        if not files and (after is None or not fim):
            tokens = t.tokenize(before, parse_special=True)
            # Chat templates already write the start token.
            return find_frame([] if tokens[:1] == head else head, tokens, fim)
        opening: list[int] = []
        if files:
            head, opening = self._open_repository(head, name)
        first = t.tokenize(before, parse_special=False)
        parts = Prompt(head, self._file_tokens(files), opening, first, [], [], [])
        if not fim:
            return parts
        parts.after, parts.order = self._tokenize_within(after or ""), self._order
        first_tokens, parts.between, parts.closing = frame(fim, self._order)
        parts.opening = [*opening, *first_tokens]
        return parts

    def _tokenize_within(self, text: str) -> list[int]:
        """Tokenize a text that continues another one, without the space that SentencePiece models prepend."""
        t = self._tokenizer
        if not t.adds_space:
            return t.tokenize(text, parse_special=False)
        # As in CodeLlama's own code: tokenize it after a separate token, and remove that token.
        n = len(t.tokenize("\n", parse_special=False))
        return t.tokenize("\n" + text, parse_special=False)[n:]

    def _open_repository(self, head: list[int], name: str) -> tuple[list[int], list[int]]:
        """Return the tokens before the other files, and those before the edited file."""
        t, fim = self._tokenizer, self._tokenizer.fim
        if fim is None or fim.file is None:
            return head, []
        if fim.repository is not None:
            head = [*head, fim.repository, *t.tokenize(f"{UNNAMED}\n", parse_special=False)]
        return head, [fim.file, *t.tokenize(f"{name or UNNAMED}\n", parse_special=False)]

    def _file_tokens(self, files: Sequence[ContextFile]) -> list[list[int]]:
        """Return the tokens of each file, with its name after the model's file token or in a comment line."""
        t = self._tokenizer
        separator = t.fim.file if t.fim else None
        found = []
        for file in files:
            if separator is None:
                text = f"# {file.name or UNNAMED}\n{file.text.rstrip()}\n\n"
                found.append(t.tokenize(text, parse_special=False))
            else:
                text = f"{file.name or UNNAMED}\n{file.text.rstrip()}\n"
                found.append([separator, *t.tokenize(text, parse_special=False)])
        return found


def frame(fim: FimTokens, order: FimOrder) -> tuple[list[int], list[int], list[int]]:
    """Return the special tokens before the first text, between the texts, and after the second text.

    The texts are prefix and suffix with "psm", suffix and prefix with "spm".
    """
    if order == "spm":
        return [fim.prefix, fim.suffix], [fim.middle], []
    return [fim.prefix], [fim.suffix], [fim.middle]


def layout_text(
    fim: FimTokens | None, order: FimOrder | None, text_of: Callable[[int], str]
) -> str:
    """Return a description of the prompts, in which … stands for the text before or after the cursor."""
    if fim is None:
        return "none: only the text before the cursor is used"
    order = order or fim.order
    parts = ("".join(map(text_of, tokens)) for tokens in frame(fim, order))
    return f"{order}: {'…'.join(parts)}"


def find_frame(head: list[int], tokens: list[int], fim: FimTokens | None) -> Prompt:
    """Return the parts of a prompt that the client framed, in either order; if it is not framed, all is `before`."""
    if fim and all(tokens.count(t) == 1 for t in (fim.prefix, fim.suffix, fim.middle)):
        pre, suf, mid = (tokens.index(t) for t in (fim.prefix, fim.suffix, fim.middle))
        opening, rest = tokens[: pre + 1], tokens[mid + 1 :]
        if pre + 1 == suf < mid and rest:
            opening.append(fim.suffix)
            return Prompt(head, [], opening, rest, [fim.middle], tokens[suf + 1 : mid], [], "spm")
        if pre < suf < mid:
            before, after = tokens[pre + 1 : suf], tokens[suf + 1 : mid]
            return Prompt(head, [], opening, before, [fim.suffix], after, tokens[mid:])
    return Prompt(head, [], [], tokens, [], [], [])


def _fit(parts: Prompt, room: int) -> Prompt:
    """Return the prompt cut to at most `room` tokens."""
    if parts.n_tokens <= room:
        return parts
    if parts.n_structure > room:  # no room for the special tokens: keep the end
        return Prompt(list(parts.tokens[-room:]), [], [], [], [], [], [])
    room -= parts.n_structure
    step = max(1, room // WINDOW_STEPS)
    n_before, n_after = len(parts.before), len(parts.after)
    files_room = max(room // FILES_SHARE, room - n_before - n_after)
    files = _last_that_fit(parts.files, files_room, len)
    room -= sum(map(len, files))
    n_after = min(n_after, max(room // SUFFIX_SHARE, room - n_before))
    n_before = min(n_before, room - n_after)
    dropped = len(parts.before) - n_before
    if step <= n_before // 2:
        dropped = -(-dropped // step) * step
    return replace(parts, files=files, before=parts.before[dropped:], after=parts.after[:n_after])


def _last_that_fit(files: Sequence[T], room: int, size: Callable[[T], int]) -> Sequence[T]:
    """Return as many whole files as fit, from the last one backwards."""
    for at in range(len(files) - 1, -1, -1):
        room -= size(files[at])
        if room < 0:
            return files[at + 1 :]
    return files
