"""Tokenizer as read from a checkpoint, and as GGUF metadata.

llama.cpp has two tokenizer models that matter here. "gpt2" splits words by regular expressions, then merges bytes by
rank (byte-level BPE); "llama" merges the characters of the whole text by score, with spaces as "▁" (SentencePiece's
BPE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from converters.tokenizer.files import corrupt
from turbopilot.base.errors import TokenizerMismatch
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.metadata import FIM_ORDER_KEY

MetadataValue: TypeAlias = "str | bool | int | list[str] | list[int] | list[float]"

# Values of gguf.TokenType, the same as SentencePiece's. They are repeated here to avoid importing gguf.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

SPACE: Final = "▁"  # U+2581, by which SentencePiece replaces a space
BYTE_TOKENS: Final = tuple(f"<0x{i:02X}>" for i in range(256))

# role → the key that llama.cpp reads (llama-arch.cpp, LLM_KV_TOKENIZER_*), if it is not "{role}_token_id"
_ODD_KEYS: Final = {"unk": "unknown_token_id", "pad": "padding_token_id"}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched in the text before it is split into words."""

    text: str
    id: int
    special: bool  # a control token, such as the end of text
    strips: bool = False  # any of lstrip, rstrip and single_word is set
    normalized: bool = False  # matched after the normalizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Content of a tokenizer's main file.

    `space_prefix` states when a space is added: "" never, "every" before each piece of text between added tokens,
    "always" and "first" as in tokenizers' Metaspace.
    """

    path: Path  # the file, for messages
    model: str  # "gpt2" or "llama"
    ids: dict[str, int]  # text → row of every token, including added tokens
    types: dict[int, int]  # row → type, if it is not NORMAL
    added: tuple[AddedToken, ...]
    beside: tuple[AddedToken, ...] = ()  # those of `added` that only other files define
    merges: list[str] = field(default_factory=list)  # "a b" in order of rank, for "gpt2"
    scores: dict[int, float] = field(default_factory=dict)  # row → score, for "llama"
    pre: str = ""  # llama.cpp's pre-tokenizer; "" if a trial of `candidates` must find it
    pre_origin: str = ""  # how `pre` was found, in words
    candidates: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()  # why the structure alone does not prove `pre` right
    normalizer: str = ""  # "" or "NFC"
    space_prefix: str = ""
    first_token: str | None = None  # added before every text; "" for none, None if unknown
    roles: dict[str, int] = field(default_factory=dict)  # ids in the file (unk, bos, eos, pad)
    renamed: dict[int, str] = field(default_factory=dict)  # row → text to write, see `looks`


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The tokenizer in a GGUF; fields without a comment are as in `Vocabulary`."""

    model: str
    pre: str  # "default" for "llama", which has no pre-tokenizer
    pre_origin: str
    tokens: list[str]  # a unique text for every embedding row
    types: list[int]  # of `tokens`
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # for every row; empty for "gpt2"
    ids: dict[str, int] = field(default_factory=dict)  # bos, eos, eot, eom, unk, pad and fim_*
    add_bos: bool = False  # whether an encoded text begins with BOS
    normalizer: str = ""
    space_prefix: str = ""
    chat_templates: dict[str, str] = field(default_factory=dict)  # see `files.chat_templates`
    fim_order: str = ""  # "psm" or "spm"; "" if the checkpoint does not name one

    @property
    def has_fim(self) -> bool:
        """Whether prefix, suffix and middle tokens are known."""
        return {"fim_pre", "fim_suf", "fim_mid"} <= self.ids.keys()

    def metadata(self) -> dict[str, MetadataValue]:
        """Return the tokenizer's GGUF metadata, without empty lists."""
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
        if self.fim_order and self.has_fim:
            values[FIM_ORDER_KEY] = self.fim_order
        if self.normalizer:
            values["turbopilot.tokenizer.normalizer"] = self.normalizer
        if self.space_prefix in ("always", "first"):
            values["turbopilot.tokenizer.space_prefix"] = self.space_prefix
        return values


MAX_TOKEN: Final = 1024
"""Most characters of a token's text; long ones take quadratic time. Published files have some hundred."""


def check_ids(path: Path, ids: Mapping[str, int], n_vocab: int) -> None:
    """Raise unless every token has a unique embedding row and a text that GGUF can store."""
    by_row: dict[int, str] = {}
    for text, row in ids.items():
        if type(row) is not int or not 0 <= row < n_vocab:
            raise TokenizerMismatch(
                f"{path}: token {quoted(text)} has id {quoted(row)}, but the embedding has rows 0 to {n_vocab - 1}",
                hint=f"check that config.json and {path.name} belong together",
            )
        if by_row.setdefault(row, text) != text:
            raise TokenizerMismatch(
                f"{path}: tokens {quoted(by_row[row])} and {quoted(text)} share the id {row}"
            )
        if len(text) > MAX_TOKEN:
            raise TokenizerMismatch(
                f"{path}: token {text[:80]!r}… has {len(text):,} characters; at most {MAX_TOKEN:,} are plausible",
                hint="download it again",
            )
        if "\0" in text:
            raise TokenizerMismatch(
                f"{path}: token {quoted(text)} contains a zero byte, which would end it in llama.cpp"
            )
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise corrupt(path, f"token {quoted(text)} is not Unicode: {e.reason}") from e


def fill_rows(
    ids: Mapping[str, int], types: Mapping[int, int], n_vocab: int
) -> tuple[list[str], list[int]]:
    """Return texts and types of all rows; a row without a token is UNUSED.

    All texts are different, since llama.cpp aborts if two are equal.
    """
    by_row = {row: text for text, row in ids.items() if text}
    texts = []
    for row in range(n_vocab):
        text = by_row.get(row, f"[PAD{row}]")
        while row not in by_row and text in ids:
            text = f"[{text}]"
        texts.append(text)
    return texts, [types.get(row, NORMAL) if row in by_row else UNUSED for row in range(n_vocab)]
