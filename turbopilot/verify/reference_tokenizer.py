"""Tokenizer of a checkpoint: tokenizer.json loaded by `tokenizers`, or other files by transformers.

tokenizer.json is loaded directly, because transformers rebuilds some tokenizers from the class that
tokenizer_config.json names, and these tokenize differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbopilot.base.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ReferenceTokenizer:
    """Functions that encode and decode text. Special tokens are parsed and shown, but never added."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def open_tokenizer(folder: Path) -> ReferenceTokenizer:
    """Load the tokenizer of a checkpoint folder; raise InvalidInput if it is missing or unreadable."""
    path = folder / "tokenizer.json"
    try:
        return _of_json(path) if path.is_file() else _of_other_files(folder)
    except Exception as e:
        # tokenizers and transformers raise everything from OSError to plain Exception here.
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise InvalidInput(
            f"{folder}: its tokenizer cannot be loaded: {reason}",
            hint="the folder needs tokenizer.json, vocab.json and merges.txt, or tokenizer.model",
        ) from e


def _of_json(path: Path) -> ReferenceTokenizer:
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ReferenceTokenizer(
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
    )


def _of_other_files(folder: Path) -> ReferenceTokenizer:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return ReferenceTokenizer(
        # verbose=False: no warning about texts longer than the context.
        lambda text: list(tokenizer.encode(text, add_special_tokens=False, verbose=False)),
        lambda ids: str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)),
    )
