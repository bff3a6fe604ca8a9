"""Prompts: text around the cursor and other files, framed for fill-in-the-middle and cut to the context.

Clients count tokens with other tokenizers, so too long a prompt is not an error: it loses what is farthest from the
cursor, never its structure.

Sources: the papers of StarCoder and SantaCoder (both orders were trained, half of the documents each) and CodeLlama
(both), the READMEs of Qwen2.5-Coder, StarCoder2 and DeepSeek-Coder on whole repositories, llama.cpp's `/infill`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, TypeVar

from serve.decoder import FimTokens, Tokenizer
from serve.settings import FimOrder

# Name of the repository and of a file without a name: the models expect some name.
UNNAMED: Final = "code"
# If not everything fits, the completion gets at least 1/ANSWER_SHARE of the context, other files 1/FILES_SHARE of the
# prompt, and the suffix 1/SUFFIX_SHARE of the rest: the prefix matters most.
ANSWER_SHARE: Final = 4
FILES_SHARE: Final = 4
SUFFIX_SHARE: Final = 4
# Characters per token of the context beyond which text is not tokenized: it would be cut off anyway. Source code has 3
# to 4 characters a token; 31 spaces are one.
CHARS_PER_TOKEN: Final = 32

# A text, or token ids, which are taken as they are.
PromptText: TypeAlias = str | tuple[int, ...]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ContextFile:
    """A file, or a piece of one, that goes before the edited one."""

    name: str
    text: str


@dataclass(slots=True)
class Prompt:
    """A prompt in parts. `before` may lose its beginning, `after` its end, `files` whole ones from the first on.

    Attributes:
        max_tokens: to generate after it.
        truncated: what was shortened so that both fit: of "prompt", "input_extra", "max_tokens".
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
        """Number of all tokens."""
        return self.n_structure + sum(map(len, (*self.files, self.before, self.after)))

    @property
    def n_text(self) -> int:
        """Number of tokens without the other files."""
        return self.n_tokens - sum(map(len, self.files))

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, in the order that the model reads."""
        first, second = self.before, self.after
        if self.order == "spm":
            first, second = second, first
        files = [t for f in self.files for t in f]
        parts = (self.head, files, self.opening, first, self.between, second, self.closing)
        return tuple(t for part in parts for t in part)


class PromptBuilder:
    """Builds the prompts of one model.

    Args:
        tokenizer: of the model.
        n_ctx: most tokens of prompt and completion together.
        max_prompt: most tokens of the prompt even if more would fit; None is no limit.
        order: which of prefix and suffix comes first.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_ctx: int,
        max_prompt: int | None = None,
        order: FimOrder = "psm",
    ) -> None:
        self._tokenizer, self._n_ctx, self._order = tokenizer, n_ctx, order
        self._most = n_ctx if max_prompt is None else min(n_ctx, max_prompt)

    def build(
        self,
        before: PromptText,
        after: str | None = None,
        *,
        max_tokens: int,
        files: Sequence[ContextFile] = (),
        name: str = "",
    ) -> Prompt:
        """Tokenize, frame for fill-in-the-middle if there is a suffix and the model can, and cut.

        Names of special tokens in a plain prompt become those tokens, as some editors frame by themselves. In text that
        is framed here they stay text, as in a file about tokenizers.

        Args:
            before: the prefix.
            after: the suffix; None without a place to fill in, "" at the end of a file.
            max_tokens: most tokens of the completion.
            files: other files, the most important last.
            name: of the edited file; "" is unknown.
        """
        limit = self._n_ctx * CHARS_PER_TOKEN
        too_long = any(isinstance(t, str) and len(t) > limit for t in (before, after))
        if isinstance(before, str):
            # The others do not fit and need not be tokenized.
            files = _last_that_fit(files, limit, lambda file: len(file.text))
            suffix = None if after is None else after[:limit]
            parts = self._parts(before[-limit:], suffix, files, name)
        else:
            parts = find_frame([], list(before), self._tokenizer.fim)
        if not parts.n_tokens:
            parts.head = [self._tokenizer.start_token]

        n_prompt = min(parts.n_tokens, self._most)
        # As many as are asked for or left, but at least a share of the context.
        least = min(max_tokens, max(1, self._n_ctx // ANSWER_SHARE))
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
            # Chat templates write the start token themselves.
            return find_frame([] if tokens[:1] == head else head, tokens, fim)
        opening: list[int] = []
        if files:
            head, opening = self._open_repository(head, name)
        first = t.tokenize(before, parse_special=False)
        parts = Prompt(head, self._file_tokens(files), opening, first, [], [], [])
        if not fim:
            return parts
        parts.after, parts.order = self._tokenize_within(after or ""), self._order
        if self._order == "spm":
            parts.opening, parts.between = [*opening, fim.prefix, fim.suffix], [fim.middle]
        else:
            parts.opening, parts.between = [*opening, fim.prefix], [fim.suffix]
            parts.closing = [fim.middle]
        return parts

    def _tokenize_within(self, text: str) -> list[int]:
        """Tokenize a text that continues another, without the space that SentencePiece's models put in front."""
        t = self._tokenizer
        if not t.adds_space:
            return t.tokenize(text, parse_special=False)
        # As in CodeLlama's own code: after a separate token, which is removed again.
        n = len(t.tokenize("\n", parse_special=False))
        return t.tokenize("\n" + text, parse_special=False)[n:]

    def _open_repository(self, head: list[int], name: str) -> tuple[list[int], list[int]]:
        """Return the tokens before the other files, and those before the edited one."""
        t, fim = self._tokenizer, self._tokenizer.fim
        if fim is None or fim.file is None:
            return head, []
        if fim.repository is not None:
            head = [*head, fim.repository, *t.tokenize(f"{UNNAMED}\n", parse_special=False)]
        return head, [fim.file, *t.tokenize(f"{name or UNNAMED}\n", parse_special=False)]

    def _file_tokens(self, files: Sequence[ContextFile]) -> list[list[int]]:
        """Return the tokens of each file, with its name after the model's token for files or in a comment line."""
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


def find_frame(head: list[int], tokens: list[int], fim: FimTokens | None) -> Prompt:
    """Return the parts of a prompt that its client framed in either order; else all of it is `before`."""
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
    if parts.n_structure > room:  # all that can be kept is the end
        return Prompt(list(parts.tokens[-room:]), [], [], [], [], [], [])
    room -= parts.n_structure
    n_before, n_after = len(parts.before), len(parts.after)
    files_room = max(room // FILES_SHARE, room - n_before - n_after)
    files = _last_that_fit(parts.files, files_room, len)
    room -= sum(map(len, files))
    n_after = min(n_after, max(room // SUFFIX_SHARE, room - n_before))
    n_before = min(n_before, room - n_after)
    before = parts.before[len(parts.before) - n_before :]
    return replace(parts, files=files, before=before, after=parts.after[:n_after])


def _last_that_fit(files: Sequence[T], room: int, size: Callable[[T], int]) -> Sequence[T]:
    """Return the last files that fit, as wholes."""
    for at in range(len(files) - 1, -1, -1):
        room -= size(files[at])
        if room < 0:
            return files[at + 1 :]
    return files
