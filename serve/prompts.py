"""What the model reads: fill-in-the-middle, and prompts cut to the context. Pure; knows nothing of HTTP.

Clients count tokens with other tokenizers and ask for more than fits, so too long a prompt is no error:
it loses its oldest part (and the suffix its farthest), never its structure.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve.decoder import FimTokens, Tokenizer

# Where both cannot have what they ask for, the answer gets at least this share of the context, and the
# suffix this share of what the prompt gets. The text before the cursor says most about what follows it.
ANSWER_SHARE = 4
SUFFIX_SHARE = 4
# Nothing beyond this many characters per cell of the context is tokenized: it would be cut off anyway
# (source code has 3 to 4 characters a token; 31 spaces are one).
CHARS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Prompt:
    """Ids that fit, and what was given up for that: parts of "prompt", "max_tokens"."""

    tokens: tuple[int, ...]
    max_tokens: int
    truncated: tuple[str, ...] = ()


def build_prompt(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    *,
    n_ctx: int,
    max_tokens: int,
    max_prompt: int | None = None,
) -> Prompt:
    """Tokenize, frame for fill-in-the-middle where there is a suffix and the model can, and fit.

    Args:
        tokenizer: of the model.
        prefix: the text before the cursor.
        suffix: the text after it; "" is none.
        n_ctx: tokens that prompt and answer may have together.
        max_tokens: tokens that are wanted of the answer.
        max_prompt: tokens that the prompt may have even where more would fit; None is no limit.

    Special tokens that a client wrote into a plain prompt count as such (some editors frame by
    themselves). Where we frame, names of special tokens in the text are only text, as in a file that is
    about tokenizers.
    """
    limit = n_ctx * CHARS_PER_TOKEN
    too_long = len(prefix) > limit or len(suffix) > limit
    prefix, suffix = prefix[-limit:], suffix[:limit]

    fim = tokenizer.fim
    head = [tokenizer.start_token] if tokenizer.adds_bos else []
    if suffix and fim:
        before = tokenizer.tokenize(prefix, parse_special=False)
        after = tokenizer.tokenize(suffix, parse_special=False)
        parts = _Parts([*head, fim.prefix], before, [fim.suffix], after, [fim.middle])
    else:
        tokens = tokenizer.tokenize(prefix, parse_special=True)
        parts = _find_frame(head, tokens, fim)
        if not parts.n_tokens:
            parts.head = [tokenizer.start_token]

    most = n_ctx if max_prompt is None else min(n_ctx, max_prompt)
    allowed = _answer_length(min(parts.n_tokens, most), n_ctx, max_tokens)
    fitted = parts.fit(min(n_ctx - allowed, most))
    truncated = (("prompt",) if fitted.n_tokens < parts.n_tokens or too_long else ()) + (
        ("max_tokens",) if allowed < max_tokens else ()
    )
    return Prompt(fitted.tokens, allowed, truncated)


def _answer_length(n_prompt: int, n_ctx: int, max_tokens: int) -> int:
    """How many tokens may be generated: what is asked for or left, at least a share of the context."""
    least = min(max_tokens, max(1, n_ctx // ANSWER_SHARE))
    return max(least, min(max_tokens, n_ctx - n_prompt))


@dataclass(slots=True)
class _Parts:
    """A prompt whose `before` may lose its beginning and whose `after` its end; the rest is structure."""

    head: list[int]
    before: list[int]
    between: list[int]
    after: list[int]
    tail: list[int]

    @property
    def n_tokens(self) -> int:
        return (
            len(self.head) + len(self.before) + len(self.between) + len(self.after) + len(self.tail)
        )

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.head, *self.before, *self.between, *self.after, *self.tail)

    def fit(self, room: int) -> _Parts:
        """The same prompt in at most `room` tokens."""
        if self.n_tokens <= room:
            return self
        structure = len(self.head) + len(self.between) + len(self.tail)
        if structure > room:  # all that can be kept is the end
            return _Parts([], list(self.tokens[-room:]), [], [], [])
        room -= structure
        n_after = min(len(self.after), max(room // SUFFIX_SHARE, room - len(self.before)))
        n_before = min(len(self.before), room - n_after)
        return _Parts(
            self.head,
            self.before[len(self.before) - n_before :],
            self.between,
            self.after[:n_after],
            self.tail,
        )


def _find_frame(head: list[int], tokens: list[int], fim: FimTokens | None) -> _Parts:
    """The parts of a prompt that its client framed (prefix, suffix, middle); else it is all `before`."""
    if fim and all(tokens.count(t) == 1 for t in (fim.prefix, fim.suffix, fim.middle)):
        pre, suf, mid = (tokens.index(t) for t in (fim.prefix, fim.suffix, fim.middle))
        if pre < suf < mid:
            return _Parts(
                [*head, *tokens[: pre + 1]],
                tokens[pre + 1 : suf],
                [fim.suffix],
                tokens[suf + 1 : mid],
                tokens[mid:],
            )
    return _Parts(head, tokens, [], [], [])
