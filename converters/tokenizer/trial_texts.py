r"""Texts for a trial: code, comments, and text that distinguishes pre-tokenizers.

`trial_corpus.txt` contains texts separated by lines of `%%`; characters that an editor or a checkout might change
are escaped as "\uXXXX". The other texts are generated here, from lists that do not depend on Python's version.
"""

from __future__ import annotations

import re
from importlib import resources
from itertools import pairwise

from converters.tokenizer.looks import token_bytes
from converters.tokenizer.metadata import NORMAL, SPACE, Vocabulary

_ESCAPE = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
_VOCABULARY_SAMPLE = 20_000  # tokens, one per line
_LINES_A_TEXT = 500

_BLANKS = (" ", "\t", "\n", "\r\n", " \n", "\n ", "\t ", " \t", "\u3000", "\u00a0", "\r")
_NEIGHBOURS = ("a", "1", ".", "'s", "É", "中", "é", "_", "(", "😀", "=", "\n")


def trial_texts(vocabulary: Vocabulary) -> list[str]:
    """Return short, distinctive texts first, so that wrong names fail early, and the vocabulary's tokens last."""
    samples = corpus()
    texts = [*samples, *_blanks(), *_digits(), *_letters()]
    texts += [sample.replace("\n", "\r\n") for sample in samples[:4]]
    texts.append("\n".join(line + " " * (i % 7) for i, line in enumerate(samples[-3].split("\n"))))
    return [text for text in [*texts, *_added(vocabulary), *_tokens(vocabulary)] if text]


def corpus() -> list[str]:
    """Return the texts of trial_corpus.txt."""
    file = resources.files("converters.tokenizer").joinpath("trial_corpus.txt")
    text = file.read_bytes().decode("utf-8").replace("\r\n", "\n")
    text = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2], 16)), text)
    return text.split("%%\n")


def _blanks() -> list[str]:
    """Return runs of whitespace between, before and after characters of different classes."""
    runs = [blank * n for blank in _BLANKS for n in (1, 2, 3, 4, 7, 8, 16)]
    lines = [f"{left}{run}{right}" for run in runs for left, right in pairwise(_NEIGHBOURS)]
    return ["|".join(lines), *(f"{run}x{run}" for run in runs), *(f"x = 1{run}" for run in runs)]


def _digits() -> list[str]:
    """Return numbers of 1 to 13 digits next to letters and punctuation, and digits of other scripts."""
    numbers = ["12345678901234"[:n] for n in range(1, 14)]
    lines = [f"x{n} {n}.{n[::-1]},{n} -{n}e{n} ({n}) {n}abc v{n}.0 ${n} {n}%" for n in numbers]
    return ["\n".join(lines), "٠١٢٣٤ १२३४ ๑๒๓๔ １２３４ ²³¹ ½⅓¼ ⅧⅨ ①②③ 1٢3 a１b 𝟙𝟚𝟛 ৳১২"]


def _letters() -> list[str]:
    """Return mixed case of several scripts, marks and punctuation next to letters, and contractions."""
    letters = (
        "a", "B", "é", "É", "ж", "Ж", "ß", "ǅ", "中", "ア", "각", "ع", "ª", "ʰ", "e\u0301", "क\u093f", "_", "'", "1",
    )  # fmt: skip
    trios = [f"{a}{b}{c}" for a in letters for b in letters for c in ("a", "É", "'s", "!")]
    endings = (
        "'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'LL", "'d", "'x", "’s", "'sa", "'st", "''s",
    )  # fmt: skip
    words = [f"{w}{e}" for w in ("it", "IT", "É", "中", "1", "_", " ", "x_", ")") for e in endings]
    signs = (
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¢£¤¥¦§©«¬®°±´¶·¸»¿×÷€™…–—‘’“”、。「」！（），．：；？～"
    )
    pairs = [f"{s}{s} {s}a a{s}b {s}1 1{s} {s}\n{s}  {s}é" for s in signs]
    return [" ".join(trios), "".join(trios), " ".join(words), "\n".join(pairs), "".join(pairs)]


def _added(vocabulary: Vocabulary) -> list[str]:
    """Return texts with added tokens, except SentencePiece's special tokens, which do not occur in text."""
    plain = vocabulary.model == "gpt2"
    marks = [t.text for t in vocabulary.added if t.text and (plain or not t.special)][:2000]
    marks += [text for text, row in vocabulary.ids.items() if row in vocabulary.renamed]
    if vocabulary.space_prefix == "first":
        marks = []  # llama.cpp adds a space after each of them, this tokenizer does not
    return [
        "".join(f"a{m}b {m} c\n{m}{m}.{m}\n  {m}\t" for m in marks[n : n + _LINES_A_TEXT])
        for n in range(0, len(marks), _LINES_A_TEXT)
    ]


def _tokens(vocabulary: Vocabulary) -> list[str]:
    """Return a sample of the vocabulary's tokens, one per line, without incomplete UTF-8 characters."""
    normal = sorted(
        row for row in vocabulary.ids.values() if vocabulary.types.get(row, NORMAL) == NORMAL
    )
    step = max(1, len(normal) // _VOCABULARY_SAMPLE)
    chosen = set(normal[::step])
    texts = [_text(t, vocabulary.model) for t, row in vocabulary.ids.items() if row in chosen]
    lines = [text for text in texts if text]
    return ["\n".join(lines[n : n + _LINES_A_TEXT]) for n in range(0, len(lines), _LINES_A_TEXT)]


def _text(token: str, model: str) -> str:
    if model == "llama":
        return token.replace(SPACE, " ")
    try:
        return (token_bytes(token) or b"").decode("utf-8")
    except UnicodeDecodeError:  # an incomplete character
        return ""
