"""Token streams of the corpus: whole files, and single functions, with the ends of definitions marked."""

from __future__ import annotations

import ast
import hashlib
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from demo.corpus import REPEATS, Corpus, repeats
from demo.tokenizer import EOS, token_id

# A prompt may end anywhere, and the tokens before the cursor are then not those of the whole text. So the text is
# tokenized in parts that end at random characters, about one per window of 512 tokens; half of them after a blank.
CHARS_PER_PART = 1500
FUNCTION_CHARS = (60, 1500)  # shortest and longest function that is a document of its own
BATCH = 2000  # parts that are tokenized in one call


@dataclass(frozen=True, slots=True)
class Stream:
    """Documents that begin with end-of-text.

    Attributes:
        ids: token ids.
        is_end: whether a function or method ends with this token.
    """

    ids: npt.NDArray[np.uint16]
    is_end: npt.NDArray[np.bool_]


def functions(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of the lines of each top-level function and each method; [] for other than Python 3."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    starts = [0]
    for line in text.splitlines(keepends=True) if "\f" not in text else []:
        starts.append(starts[-1] + len(line))
    found = []
    for node in tree.body:
        for f in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) and (f.end_lineno or 0) < len(
                starts
            ):
                first = min([f.lineno, *(d.lineno for d in f.decorator_list)])
                end = starts[f.end_lineno or 0]
                found.append((starts[first - 1], end - (text[end - 1] == "\n")))
    return found


def is_document(function: str) -> bool:
    """Return whether a function makes a good document: of a useful length, with a docstring or a short body."""
    low, high = FUNCTION_CHARS
    return low <= len(function) <= high and ('"""' in function or function.count("\n") < 16)


def parts(text: str, ends: list[int], rng: np.random.Generator) -> Iterator[tuple[str, bool]]:
    """Yield (part, whether a function ends there): the text cut at ends of functions and at random characters."""
    n = len(text) // CHARS_PER_PART
    cuts = {int(c) for c in rng.integers(1, len(text), n)} if n else set()
    after_blank = {m.end() for c in cuts if c % 2 and (m := re.compile(r"\w ").search(text, c))}
    cuts = {c for c in cuts if not c % 2} | after_blank
    last, marked = 0, set(ends)
    for cut in sorted(cuts | marked | {len(text)}):
        if last < cut:
            yield text[last:cut], cut in marked
            last = cut


def encode(documents: Iterator[tuple[str, list[int]]], tokenizer: Tokenizer, seed: int) -> Stream:
    """Tokenize (text, ends of functions) into one stream."""
    rng = np.random.default_rng(seed)
    eos = token_id(tokenizer, EOS)
    ids: list[npt.NDArray[np.uint16]] = []
    is_end: list[npt.NDArray[np.bool_]] = []

    def flush(batch: list[tuple[str, bool]]) -> None:
        encoded = tokenizer.encode_batch_fast([part for part, _ in batch])
        for code, (part, ends) in zip(encoded, batch, strict=True):
            row = np.array(code.ids if part else [eos], dtype=np.uint16)
            marks = np.zeros(len(row), dtype=bool)
            marks[-1] = ends
            ids.append(row)
            is_end.append(marks)

    waiting: list[tuple[str, bool]] = []
    for text, ends in documents:
        waiting += [("", False), *parts(text, ends, rng)]
        if len(waiting) > BATCH:
            flush(waiting)
            waiting = []
    flush(waiting)
    return Stream(np.concatenate(ids), np.concatenate(is_end))


def build(corpus: Corpus, tokenizer: Tokenizer, seed: int) -> tuple[Stream, Stream]:
    """Return the streams of whole files and of single functions, both in random order."""
    rng = np.random.default_rng(seed)
    names = [n for n in corpus.train for _ in range(int(repeats(n) + rng.random()))]
    spans = {n: functions(corpus.train[n]) for n in corpus.train}
    files = (
        (corpus.train[names[i]], [e for _, e in spans[names[i]]])
        for i in rng.permutation(len(names))
    )
    alone = [
        textwrap.dedent(corpus.train[n][a:b])
        for n in names if not n.startswith("stdlib/test/")
        for a, b in spans[n] if is_document(corpus.train[n][a:b])
    ]  # fmt: skip
    chosen = ((alone[i], [len(alone[i])]) for i in rng.permutation(len(alone)))
    return encode(files, tokenizer, seed), encode(chosen, tokenizer, seed + 1)


def cached(corpus: Corpus, tokenizer: Tokenizer, seed: int, folder: Path) -> tuple[Stream, Stream]:
    """Return the streams, kept in `folder` because building them takes minutes; the files are mapped into memory."""
    names = ("files", "files-ends", "alone", "alone-ends")
    key = hashlib.sha256(repr((corpus.digest, seed, sorted(REPEATS.items()))).encode()).hexdigest()
    files = [folder / f"{key[:16]}-{name}.npy" for name in names]
    if not all(f.exists() for f in files):
        first, second = build(corpus, tokenizer, seed)
        for file, array in zip(
            files, (first.ids, first.is_end, second.ids, second.is_end), strict=True
        ):
            np.save(file, array)
    arrays = [np.load(f, mmap_mode="r") for f in files]
    return Stream(arrays[0], arrays[1]), Stream(arrays[2], arrays[3])
