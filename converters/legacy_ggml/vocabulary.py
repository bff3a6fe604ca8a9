"""Recovery of a tokenizer from an old file's vocabulary, which contains only the bytes of each token.

Added tokens come before the byte alphabet (StarCoder) or after the last merge (CodeGen, SantaCoder). The rows after
them repeat the end-of-text token, or the last token, to fill the embedding.

BPE training adds one merge at a time, so applying the earlier merges to a token's characters leaves exactly the two
tokens that were merged into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from converters.tokenizer.looks import BYTE_LETTERS
from converters.tokenizer.metadata import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    AddedToken,
    GgufTokenizer,
    Vocabulary,
)
from turbopilot.base.errors import CorruptCheckpoint, TokenizerMismatch
from turbopilot.base.quoting import quoted

_LOST = "\ufffd".encode()  # U+FFFD, which replaces invalid UTF-8
# Sum of squared lengths, to which the time to recover merges is proportional: 15 s. Published files have 5 million.
_MAX_WORK = 50_000_000


def is_lossy(entries: Sequence[bytes]) -> bool:
    """Return whether tokens were written as text, which loses incomplete UTF-8 characters.

    ggml's converter for GPT-NeoX does that; more than a hundred rows are then U+FFFD.
    """
    return sum(entry == _LOST for entry in entries) > 1


def read_vocabulary(path: Path, entries: Sequence[bytes], cuts: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of an old file, with each token classified as a merge, an added token or padding.

    `entries` are the bytes of each row's token. `cuts` are llama.cpp's pre-tokenizers for the family's models; if
    there are two, the first splits off each digit.
    """
    if sum(len(entry) ** 2 for entry in entries) > _MAX_WORK:
        raise CorruptCheckpoint(
            f"{path}: its vocabulary has implausibly long tokens", hint="download it again"
        )
    letters = ["".join(BYTE_LETTERS[byte] for byte in entry) for entry in entries]
    merges = list(recover_merges(letters))
    first = next((row for row, text in enumerate(letters) if len(text) == 1), len(letters))
    behind = _behind_merges(entries, letters, merges)
    if not any(merges[first:behind]):
        raise TokenizerMismatch(
            f"{path}: its vocabulary is not byte-level BPE: no token is a merge of two earlier ones",
            hint="use the model's checkpoint: turbopilot convert NAME",
        )
    ids: dict[str, int] = {}
    types: dict[int, int] = {}
    added: list[AddedToken] = []
    for row, entry in enumerate(entries):
        merging = first <= row < behind
        text = letters[row] if merging else _text(path, row, entry)
        if not text or text in ids:
            continue  # padding of the embedding
        ids[text] = row
        types[row] = NORMAL if merging else USER_DEFINED if text.isspace() else CONTROL
        if not merging:
            added.append(AddedToken(text, row, types[row] == CONTROL))
    found = [m for m in merges[first:behind] if m]
    pre, origin = cuts[0], "by the family: an old file does not name its pre-tokenizer"
    if len(cuts) > 1:
        pairs = (pair for a, b in found for pair in pairwise(a + b))
        digits_alone = not any(a.isdigit() and b.isdigit() for a, b in pairs)
        pre = cuts[0] if digits_alone else cuts[1]
        origin = (
            f"by the vocabulary: {'no token has' if digits_alone else 'tokens have'} two digits"
        )
    return Vocabulary(
        path, "gpt2", ids, types, tuple(added), merges=[f"{a} {b}" for a, b in found], pre=pre, pre_origin=origin
    )  # fmt: skip


def _behind_merges(
    entries: Sequence[bytes], letters: Sequence[str], merges: Sequence[tuple[str, str] | None]
) -> int:
    """Return the row after the last merge; later tokens were added, or are padding.

    An added run of spaces may look like a merge of two earlier runs (31 = 16 + 15), so a block of whitespace tokens
    counts as added if one of them cannot be a merge.
    """

    def is_merge(row: int) -> bool:
        return merges[row] is not None or len(letters[row]) == 1

    start = len(entries)
    while start and (not is_merge(start - 1) or entries[start - 1].isspace()):
        start -= 1
    sure = next((row for row in range(start, len(entries)) if not is_merge(row)), len(entries))
    return start if sure < len(entries) and entries[sure].isspace() else sure


def _text(path: Path, row: int, entry: bytes) -> str:
    try:
        return entry.decode("utf-8")
    except UnicodeDecodeError as e:
        raise TokenizerMismatch(
            f"{path}: token {row:,} was added to the vocabulary, but is not UTF-8: {quoted(entry)}",
            hint="use the model's checkpoint: turbopilot convert NAME",
        ) from e


def check_same(
    path: Path, entries: Sequence[bytes], tokenizer: GgufTokenizer, folder: Path
) -> None:
    """Raise TokenizerMismatch unless `tokenizer` matches the file's lossy vocabulary."""
    for row, (entry, token, kind) in enumerate(
        zip(entries, tokenizer.tokens, tokenizer.types, strict=True)
    ):
        if _LOST in entry:
            continue
        if kind == NORMAL:
            try:
                text = bytes(BYTE_LETTERS.index(c) for c in token).decode("utf-8", "replace")
            except ValueError:
                text = token
        else:
            text = token
        written = entry.decode("utf-8", "replace")
        if written not in (text, _tidied(text)) and kind in (NORMAL, CONTROL, USER_DEFINED):
            raise TokenizerMismatch(
                f"{path}: token {row:,} is {quoted(written)}, but {quoted(text)} in {folder}",
                hint="give the folder of the model from which the file was converted",
            )


def _tidied(text: str) -> str:
    """Return a token's text as transformers decoded it after a dot: without spaces before punctuation."""
    tidy = "." + text
    for before in (" .", " ?", " !", " ,"):
        tidy = tidy.replace(before, before[1:])
    tidy = tidy.replace(" ' ", "'")
    for before in (" n't", " 'm", " 's", " 've", " 're"):
        tidy = tidy.replace(before, before[1:])
    return tidy[1:]


def recover_merges(tokens: Iterable[str]) -> Iterator[tuple[str, str] | None]:
    """Yield the merge that produces each token, or None. Tokens are in id order, in byte-level BPE's characters.

    >>> list(recover_merges(["a", "b", "c", "ab", "abc", "<x>", "cc"]))
    [None, None, None, ('a', 'b'), ('ab', 'c'), None, ('c', 'c')]
    """
    ranks: dict[tuple[str, str], int] = {}
    known: set[str] = set()
    for token in tokens:
        merge = None
        if len(token) > 1 and token not in known:
            parts = merged(token, ranks)
            if len(parts) == 2 and parts[0] in known and parts[1] in known:
                merge = (parts[0], parts[1])
                ranks[merge] = len(ranks)
        if merge or len(token) == 1:
            known.add(token)
        yield merge


def merged(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Apply BPE merges to a string: the pair of the lowest rank first, the leftmost of equal pairs.

    >>> merged("abcab", {("a", "b"): 0, ("ab", "c"): 1})
    ['abc', 'ab']
    """
    parts = list(text)
    while len(parts) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
        best = min(pairs)
        if best == len(ranks):
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
