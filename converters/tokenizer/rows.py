"""One text and one type for every row of the embedding; llama.cpp ends the process where two texts are alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converters.tokenizer.metadata import NORMAL, UNUSED
from turbopilot.base.errors import CorruptCheckpoint, TokenizerMismatch


def check_ids(path: Path, ids: Mapping[str, int], n_vocab: int) -> None:
    """Every token has a row of its own in the embedding, and a text that GGUF can hold.

    Raises:
        TokenizerMismatch: an id is no number, beyond the embedding or that of two tokens.
        CorruptCheckpoint: a text is not Unicode.
    """
    by_row: dict[int, str] = {}
    for text, row in ids.items():
        if type(row) is not int or not 0 <= row < n_vocab:
            raise TokenizerMismatch(
                f"{path}: token {text!r:.200} has id {row!r:.40}, but the embedding has rows 0 to {n_vocab - 1}",
                hint=f"do config.json and {path.name} belong together?",
            )
        if by_row.setdefault(row, text) != text:
            raise TokenizerMismatch(
                f"{path}: tokens {by_row[row]!r:.200} and {text!r:.200} share the id {row}"
            )
        if "\0" in text:
            raise TokenizerMismatch(
                f"{path}: token {text!r:.200} holds a zero byte, where llama.cpp would end it"
            )
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise CorruptCheckpoint(
                f"{path}: token {text!r:.200} is not Unicode: {e.reason}", hint="download it again"
            ) from e


def fill_rows(
    ids: Mapping[str, int], types: Mapping[int, int], n_vocab: int
) -> tuple[list[str], list[int]]:
    """Texts and types of all rows. Rows without a token are unused, under names that no token has."""
    by_row = {row: text for text, row in ids.items() if text}
    texts = []
    for row in range(n_vocab):
        text = by_row.get(row, f"[PAD{row}]")
        while row not in by_row and text in ids:
            text = f"[{text}]"
        texts.append(text)
    return texts, [types.get(row, NORMAL) if row in by_row else UNUSED for row in range(n_vocab)]
