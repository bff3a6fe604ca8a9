"""Prompts for fill-in-the-middle: text around the cursor and other files, cut to the context.

Clients count tokens with other tokenizers, so a prompt that is too long is not an error: it loses the text farthest
from the cursor, but keeps its special tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from serve.decoder import Tokenizer
from serve.prompt.bound_layout import TemplatePart
from serve.prompt.context_file import ContextFile
from serve.prompt.framed_prompt import (
    FIELDS,
    Prompt,
    PromptField,
    find_frame,
    find_text_frame,
    plain_prompt,
)
from serve.prompt.layouts import AS_COMMENTS

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


class PromptBuilder:
    """Builder of the prompts of one model.

    Args:
        tokenizer: the model's tokenizer.
        n_ctx: maximum tokens of prompt and completion together.
        max_prompt: maximum tokens of the prompt, even if more would fit; None means no limit.
    """

    def __init__(self, tokenizer: Tokenizer, n_ctx: int, max_prompt: int | None = None) -> None:
        self._tokenizer, self._n_ctx = tokenizer, n_ctx
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
        limit, n_files = self._n_ctx * CHARS_PER_TOKEN, len(files)
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
            parts = self._parts(before, suffix, files, name)
        else:
            start = [self._tokenizer.start_token]
            n = int(list(before[:1]) == start)
            parts = find_frame(start[:n], list(before[n:]), self._tokenizer.fim)
        if not parts.n_tokens:
            parts = plain_prompt([self._tokenizer.start_token], [])

        n_prompt = min(parts.n_tokens, self._most)
        allowed = max(least, min(max_tokens, self._n_ctx - n_prompt))
        fitted = _fit(parts, min(self._n_ctx - allowed, self._most))
        loses_context = not n_files and len(fitted.files) < len(parts.files)
        lost = {
            "prompt": fitted.n_text < parts.n_text or too_long or loses_context,
            "input_extra": len(fitted.files) < n_files,
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
            tokens = self._tokenize_framed(before)
            if head and tokens[:1] == head:  # chat templates already write the start token
                del tokens[0]
            return find_frame(head, tokens, fim)
        before = before[-self._n_ctx * CHARS_PER_TOKEN :]
        layout = fim.chosen if fim else None
        form = layout.file if layout else (AS_COMMENTS,)
        others = [
            self._filled(form, name=file.name or UNNAMED, text=file.text.rstrip())[0][0]
            for file in files
        ]
        if not layout:
            return Prompt([head, [], []], ("files", "before"), self._tokenize(before), [], others)
        is_project = bool(files) or (layout.names_lone_file and bool(name))
        template = layout.project if is_project else layout.infill
        fixed, order = self._filled(template, repository=UNNAMED, name=name or UNNAMED)
        # SentencePiece models read the first text after a token with a space in front.
        is_first = isinstance(template[template.index("{prefix}") - 1], int)
        first = self._tokenize(before) if is_first else self._tokenize_within(before)
        rest = self._tokenize_within(after or "")
        return Prompt([[*head, *fixed[0]], *fixed[1:]], order, first, rest, others)

    def _filled(
        self, template: Sequence[TemplatePart], **values: str
    ) -> tuple[list[list[int]], tuple[PromptField, ...]]:
        """Return the tokens around the fields of a prompt's template, and the fields.

        Args:
            template: the template.
            values: names and texts in it.
        """
        fixed: list[list[int]] = [[]]
        order: list[PromptField] = []
        for part in template:
            if isinstance(part, int):
                fixed[-1].append(part)
            elif part in FIELDS:
                order.append(FIELDS[part])
                fixed.append([])
            else:
                fixed[-1] += self._tokenize(part.format(**values))
        return fixed, tuple(order)

    def _tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        return self._tokenizer.tokenize(text, parse_special=parse_special)

    def _tokenize_within(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Tokenize a text that continues another one, without the space that SentencePiece models prepend."""
        if not self._tokenizer.adds_space:
            return self._tokenize(text, parse_special=parse_special)
        # As in CodeLlama's own code: tokenize it after a separate token, and remove that token.
        n = len(self._tokenize("\n"))
        return self._tokenize("\n" + text, parse_special=parse_special)[n:]

    def _tokenize_framed(self, text: str) -> list[int]:
        """Tokenize a prompt in which names of special tokens are those tokens, and which the client may have framed.

        Text that would be cut off anyway is not tokenized.
        """
        t, limit = self._tokenizer, self._n_ctx * CHARS_PER_TOKEN
        found = None
        if t.fim and (t.adds_space or len(text) > limit):
            found = find_text_frame(text, t.fim)
        if not found:
            return t.tokenize(text[-limit:], parse_special=True)
        layout, (context, *texts) = found
        tokens = self._tokenize(context[-limit:], parse_special=True) if context else []
        # llama.cpp adds a space after every special token; the layouts have one only before the prefix.
        for token, part, text in zip(layout.frame, layout.fields, texts, strict=True):
            tokens.append(token)
            if part == "{prefix}":
                text = text.removeprefix(" ") if layout.is_spaced else text
                tokens += self._tokenize(text[-limit:], parse_special=True)
            elif text:
                tokens += self._tokenize_within(text[:limit], parse_special=True)
        return tokens


def _fit(parts: Prompt, room: int) -> Prompt:
    """Return the prompt cut to at most `room` tokens."""
    if parts.n_tokens <= room:
        return parts
    if parts.n_structure > room:  # no room for the special tokens: keep the end
        return Prompt([list(parts.tokens[-room:])], (), [], [])
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
