"""What is read of a tokenizer, and what is written of it.

Text is cut in one of two ways, and llama.cpp names them after the first models that did so:
"gpt2" cuts words by regular expressions, then merges bytes by rank (byte-level BPE); "llama" merges the
characters of the whole text by score, with spaces written as "▁" (SentencePiece's BPE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from converters.tokenizer.files import corrupt
from turbopilot.base.errors import TokenizerMismatch

MetadataValue: TypeAlias = "str | bool | int | list[str] | list[int] | list[float]"

# gguf.TokenType, which are SentencePiece's numbers; written out so that reading needs no gguf.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE: Final = "▁"  # U+2581, how SentencePiece writes a space
BYTE_TOKENS: Final = tuple(f"<0x{i:02X}>" for i in range(256))

# role → the key that llama.cpp reads (llama-arch.cpp, LLM_KV_TOKENIZER_*), where it is not "{role}_token_id"
_ODD_KEYS: Final = {"unk": "unknown_token_id", "pad": "padding_token_id"}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before anything else is done to it.

    Args:
        special: a sign for programs (end of text …), not text; GGUF calls it a control token.
        strips: swallows blanks beside it (lstrip, rstrip) or matches whole words only (single_word).
        normalized: looked for in the text as the normalizer left it.
    """

    text: str
    id: int
    special: bool
    strips: bool = False
    normalized: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer's own file says, whichever file that is.

    Args:
        path: the file, for messages.
        model: "gpt2" or "llama".
        ids: text → row, of every token, added ones too.
        types: row → type, if it is not NORMAL.
        beside: those of `added` that only other files make added tokens.
        merges: "a b" by rank, of "gpt2".
        scores: row → score, of "llama"; the highest is merged first.
        pre: llama.cpp's name of the pre-tokenizer; "" if it must be found by trial of `candidates`, in order.
        pre_origin: how `pre` is known.
        doubts: why structure alone does not prove that llama.cpp cuts alike.
        normalizer: what is done to text first: "" or "NFC".
        space_prefix: how a space is put before the text: "" not at all, "every" before every stretch between
            added tokens, "always" and "first" as tokenizers' Metaspace does.
        first_token: what the file puts before every text; None if it does not say.
        roles: ids that the file itself gives (unk, and SentencePiece's bos, eos, pad).
        renamed: row → the text written for it, of plain tokens that llama.cpp would take for signs.
    """

    path: Path
    model: str
    ids: dict[str, int]
    types: dict[int, int]
    added: tuple[AddedToken, ...]
    beside: tuple[AddedToken, ...] = ()
    merges: list[str] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    pre: str = ""
    pre_origin: str = ""
    candidates: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    normalizer: str = ""
    space_prefix: str = ""
    first_token: str | None = None
    roles: dict[str, int] = field(default_factory=dict)
    renamed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What the GGUF says of its tokenizer; fields that `Vocabulary` has too mean the same.

    Args:
        pre: "default" for "llama", which has no pre-tokenizer.
        tokens: one text for every embedding row, all different; `types` are theirs.
        scores: one for every row; empty for "gpt2".
        ids: bos, eos, eot, eom, unk, pad and the fim_* ids, as far as they exist.
        add_bos: whether encoding a text begins with BOS.
        chat_templates: by name; "default" is the one used unasked.
    """

    model: str
    pre: str
    pre_origin: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    normalizer: str = ""
    space_prefix: str = ""
    chat_templates: dict[str, str] = field(default_factory=dict)

    @property
    def has_fim(self) -> bool:
        """Whether prefix, suffix and middle tokens are known."""
        return {"fim_pre", "fim_suf", "fim_mid"} <= self.ids.keys()

    def metadata(self) -> dict[str, MetadataValue]:
        """Return every key of the tokenizer, as GGUF names them; no list is empty."""
        values: dict[str, MetadataValue] = {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
        }
        if self.model == "llama":
            values["tokenizer.ggml.scores"] = self.scores
            values["tokenizer.ggml.add_space_prefix"] = bool(self.space_prefix)
        else:
            values["tokenizer.ggml.merges"] = self.merges
        values["tokenizer.ggml.add_bos_token"] = self.add_bos
        for role, token_id in self.ids.items():
            values[f"tokenizer.ggml.{_ODD_KEYS.get(role, f'{role}_token_id')}"] = token_id
        values |= {
            "tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}": t
            for name, t in self.chat_templates.items()
        }
        if names := sorted(self.chat_templates.keys() - {"default"}):
            values["tokenizer.chat_templates"] = names
        values["turbopilot.tokenizer.pre_origin"] = self.pre_origin
        if self.normalizer:
            values["turbopilot.tokenizer.normalizer"] = self.normalizer
        if self.space_prefix in ("always", "first"):
            values["turbopilot.tokenizer.space_prefix"] = self.space_prefix
        return values


def check_ids(path: Path, ids: Mapping[str, int], n_vocab: int) -> None:
    """Raise unless every token has a row of its own in the embedding, and a text that GGUF can hold."""
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
            raise corrupt(path, f"token {text!r:.200} is not Unicode: {e.reason}") from e


def fill_rows(
    ids: Mapping[str, int], types: Mapping[int, int], n_vocab: int
) -> tuple[list[str], list[int]]:
    """Return texts and types of all rows; a row without a token is unused, under a text that no token has.

    llama.cpp ends the process if two texts are equal.
    """
    by_row = {row: text for text, row in ids.items() if text}
    texts = []
    for row in range(n_vocab):
        text = by_row.get(row, f"[PAD{row}]")
        while row not in by_row and text in ids:
            text = f"[{text}]"
        texts.append(text)
    return texts, [types.get(row, NORMAL) if row in by_row else UNUSED for row in range(n_vocab)]
