"""How a model wants text before and after the cursor, and other files. Pure; knows nothing of HTTP or requests.

Sources: StarCoder's and SantaCoder's papers (both orders were trained, half of the documents each), CodeLlama's (both),
the READMEs of Qwen2.5-Coder, StarCoder2 and DeepSeek-Coder on whole repositories, llama.cpp's `/infill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.decoder import FimTokens, Tokenizer
from serve.settings import FimOrder

# What the repository and a file without a name are called: the models want some name there.
UNNAMED = "code"


@dataclass(frozen=True, slots=True)
class ContextFile:
    """A file, or a piece of one, that the model is to know beside the one that is edited."""

    name: str
    text: str


@dataclass(slots=True)
class Frame:
    """A prompt in parts. `before` may lose its beginning, `after` its end, `files` whole ones from the first on."""

    head: list[int]
    files: Sequence[list[int]]
    opening: list[int]
    before: list[int]
    between: list[int]
    after: list[int]
    closing: list[int]
    order: FimOrder = "psm"

    @property
    def n_structure(self) -> int:
        """Tokens that stay whatever is cut."""
        return sum(map(len, (self.head, self.opening, self.between, self.closing)))

    @property
    def n_files(self) -> int:
        """Tokens of the other files."""
        return sum(map(len, self.files))

    @property
    def n_tokens(self) -> int:
        """Tokens of it all."""
        return self.n_structure + self.n_files + len(self.before) + len(self.after)

    @property
    def tokens(self) -> tuple[int, ...]:
        """In the order that the model reads."""
        first, second = self.before, self.after
        if self.order == "spm":
            first, second = second, first
        files = [t for f in self.files for t in f]
        parts = (self.head, files, self.opening, first, self.between, second, self.closing)
        return tuple(t for part in parts for t in part)


def plain(tokenizer: Tokenizer, before: list[int], files: Sequence[ContextFile]) -> Frame:
    """A prompt that is only continued."""
    head, opening = _open_repository(tokenizer, files, "")
    return Frame(head, _file_tokens(tokenizer, files), opening, before, [], [], [])


def framed(
    tokenizer: Tokenizer,
    fim: FimTokens,
    before: str,
    after: str,
    files: Sequence[ContextFile] = (),
    *,
    name: str = "",
    order: FimOrder = "psm",
) -> Frame:
    """A prompt to fill in the middle of.

    Args:
        tokenizer: of the model.
        fim: its special tokens.
        before: the text before the cursor; names of special tokens in it are only text.
        after: the text after it.
        files: others, those that matter most at the end.
        name: of the file that is edited, "" where it is unknown.
        order: what comes first.
    """
    head, opening = _open_repository(tokenizer, files, name)
    first = tokenizer.tokenize(before, parse_special=False)
    second = _tokenize_within(tokenizer, after)
    parts = _file_tokens(tokenizer, files)
    if order == "spm":
        opening = [*opening, fim.prefix, fim.suffix]
        return Frame(head, parts, opening, first, [fim.middle], second, [], order)
    return Frame(head, parts, [*opening, fim.prefix], first, [fim.suffix], second, [fim.middle])


def find_frame(head: list[int], tokens: list[int], fim: FimTokens | None) -> Frame:
    """The parts of a prompt that its client framed, in either order; else it is all `before`."""
    if fim and all(tokens.count(t) == 1 for t in (fim.prefix, fim.suffix, fim.middle)):
        pre, suf, mid = (tokens.index(t) for t in (fim.prefix, fim.suffix, fim.middle))
        opening, rest = tokens[: pre + 1], tokens[mid + 1 :]
        if pre + 1 == suf < mid and rest:
            opening.append(fim.suffix)
            return Frame(head, [], opening, rest, [fim.middle], tokens[suf + 1 : mid], [], "spm")
        if pre < suf < mid:
            before, after = tokens[pre + 1 : suf], tokens[suf + 1 : mid]
            return Frame(head, [], opening, before, [fim.suffix], after, tokens[mid:])
    return Frame(head, [], [], tokens, [], [], [])


def _tokenize_within(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text that begins amid another: it gets no space in front, which would be one too many in the file."""
    if not tokenizer.adds_space:
        return tokenizer.tokenize(text, parse_special=False)
    # As CodeLlama's own code does it: behind something that is a token of its own, which is taken off again.
    n = len(tokenizer.tokenize("\n", parse_special=False))
    return tokenizer.tokenize("\n" + text, parse_special=False)[n:]


def _open_repository(
    tokenizer: Tokenizer, files: Sequence[ContextFile], name: str
) -> tuple[list[int], list[int]]:
    """What stands before the files, and before the one that is edited."""
    head = [tokenizer.start_token] if tokenizer.adds_bos else []
    fim = tokenizer.fim
    if not files or fim is None or fim.file is None:
        return head, []
    if fim.repository is not None:
        head = [*head, fim.repository, *tokenizer.tokenize(f"{UNNAMED}\n", parse_special=False)]
    title = tokenizer.tokenize(f"{name or UNNAMED}\n", parse_special=False)
    return head, [fim.file, *title]


def _file_tokens(tokenizer: Tokenizer, files: Sequence[ContextFile]) -> list[list[int]]:
    """Each file under its name: after the model's own token for that, else as a line of comment."""
    separator = tokenizer.fim.file if tokenizer.fim else None
    found = []
    for file in files:
        if separator is None:
            text = f"# {file.name or UNNAMED}\n{file.text.rstrip()}\n\n"
            found.append(tokenizer.tokenize(text, parse_special=False))
        else:
            text = f"{file.name or UNNAMED}\n{file.text.rstrip()}\n"
            found.append([separator, *tokenizer.tokenize(text, parse_special=False)])
    return found
