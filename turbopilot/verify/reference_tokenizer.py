"""A checkpoint's own tokenizer: its tokenizer.json run by `tokenizers`, or what transformers makes of other files.

tokenizer.json is taken as it is: transformers rebuilds some tokenizers by the class that tokenizer_config.json
names, and then cuts otherwise than the file says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from turbopilot.base.errors import InvalidInput


class ReferenceTokenizer(Protocol):
    """Text to ids and back."""

    def encode(self, text: str) -> list[int]:
        """Ids of the text: special tokens are parsed where they occur, none are added."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens included."""


def open_tokenizer(folder: Path) -> ReferenceTokenizer:
    """The tokenizer of a checkpoint's folder.

    Raises:
        InvalidInput: there is none that can be read.
    """
    try:
        if (folder / "tokenizer.json").is_file():
            return _Json(folder / "tokenizer.json")
        return _OtherFiles(folder)
    except Exception as e:
        # tokenizers and transformers raise everything from OSError to plain Exception here.
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise InvalidInput(
            f"{folder}: its tokenizer cannot be loaded: {reason}",
            hint="the folder needs tokenizer.json, vocab.json and merges.txt, or tokenizer.model",
        ) from e


class _Json:
    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


class _OtherFiles:
    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )

    def encode(self, text: str) -> list[int]:
        # verbose=False: a text longer than the context is meant here, not a mistake to warn of.
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
