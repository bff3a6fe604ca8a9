"""Added tokens, which are matched before text is split into words: their files, and differences from llama.cpp."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from converters.tokenizer.files import SideFiles, corrupt, token_text
from converters.tokenizer.metadata import CONTROL, USER_DEFINED, AddedToken
from turbopilot.base.errors import TokenizerMismatch
from turbopilot.base.quoting import quoted

_ROW = re.compile("[0-9]{1,10}")  # int() raises ValueError for thousands of digits
_FLAGS = ("lstrip", "rstrip", "single_word")
# field names in transformers 4 and 5; version 5 allows any names of roles
_MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
# Tokens of these roles are added by id and do not occur in text.
_NEVER_IN_TEXT = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")


def parse_added(path: Path, entries: Iterable[Any]) -> list[AddedToken]:
    """Parse the added tokens of tokenizer.json or tokenizer_config.json."""
    found: dict[str, AddedToken] = {}
    for entry in entries:
        text, token_id = (
            (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(text, str) or type(token_id) is not int:
            raise corrupt(path, f"{quoted(entry)} is not an added token")
        if text in found:
            raise corrupt(path, f"added token {quoted(text)} occurs twice")
        found[text] = AddedToken(
            text, token_id, bool(entry.get("special")), any(entry.get(f) for f in _FLAGS),
            bool(entry.get("normalized", not entry.get("special"))),
        )  # fmt: skip
    return list(found.values())


def added_beside(side: SideFiles) -> list[AddedToken]:
    """Return the added tokens to which the accompanying files give ids."""
    path = side.folder / "tokenizer_config.json"
    entries = side.config.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise corrupt(path, "added_tokens_decoder is not an object")
    numbered = [
        {**entry, "id": int(key)}
        if isinstance(entry, dict) and _ROW.fullmatch(key)
        else (key, entry)
        for key, entry in entries.items()
    ]
    found = {token.text: token for token in parse_added(path, numbered)}
    special = _special_texts(side)
    for text, token_id in side.added.items():
        where = side.folder / "added_tokens.json"
        if type(token_id) is not int:
            raise corrupt(
                where, f"token {quoted(text)} has the id {quoted(token_id)}, not an integer"
            )
        if text in found and found[text].id != token_id:
            raise corrupt(
                where,
                f"token {quoted(text)} has id {token_id}, but {found[text].id} in {path.name}",
            )
        found.setdefault(text, AddedToken(text, token_id, text in special))
    return list(found.values())


def _special_texts(side: SideFiles) -> set[str]:
    """Return the texts of special tokens."""
    texts: set[str | None] = set()
    for file in (side.config, side.special):
        for key, value in file.items():
            if key.endswith("_token"):
                texts.add(token_text(value))
            elif key in _MORE_SPECIAL and isinstance(value, list | dict):
                texts |= {
                    token_text(v) for v in (value.values() if isinstance(value, dict) else value)
                }
    return {text for text in texts if text is not None}


def named_special(side: SideFiles, vocab: Mapping[str, int]) -> list[AddedToken]:
    """Return the tokens of the vocabulary that an accompanying file makes special, e.g. GPT-2's <|endoftext|>."""
    return [AddedToken(t, vocab[t], True) for t in sorted(_special_texts(side)) if t in vocab]


def join(
    path: Path, vocab: Mapping[str, int], added: Iterable[AddedToken]
) -> tuple[dict[str, int], dict[int, int]]:
    """Return text → id of all tokens, and id → type of the added ones."""
    ids, types = dict(vocab), {}
    for token in added:
        if ids.setdefault(token.text, token.id) != token.id:
            raise TokenizerMismatch(
                f"{path}: token {quoted(token.text)} has the ids {ids[token.text]} and {token.id}"
            )
        types[token.id] = CONTROL if token.special else USER_DEFINED
    return ids, types


def strip_problems(side: SideFiles, added: Iterable[AddedToken]) -> list[str]:
    """Describe tokens whose flags llama.cpp ignores, if they may occur in text."""
    harmless = {side.name_of(role) for role in _NEVER_IN_TEXT}
    return [
        f"added token {quoted(t.text)} strips whitespace (lstrip, rstrip) or matches only whole words (single_word)"
        for t in added
        if t.strips and not (t.special and t.text in harmless)
    ]


def overlapping(added: Iterable[AddedToken]) -> list[str]:
    """Describe tokens that end with the start of another token, except runs of one character.

    tokenizers matches the leftmost token in a text, llama.cpp the longest: with "<a><b" and "<b>c" they would split
    "<a><b>c" differently.
    """
    texts = [t.text for t in added]
    every = sorted(texts)
    mixed = [text for text in every if len(set(text)) > 1]
    return [
        f"added token {quoted(text)} ends with the start of another added token"
        for text in texts
        if any(
            _starts_one(text[n:], every if len(set(text)) > 1 else mixed)
            for n in range(1, len(text))
        )
    ]


def _starts_one(head: str, texts: Sequence[str]) -> bool:
    """Return whether one of the sorted texts is longer than `head` and starts with it."""
    at = bisect_right(texts, head)
    return at < len(texts) and texts[at].startswith(head)


def refuse(path: Path, problems: Iterable[str]) -> NoReturn:
    """Raise TokenizerMismatch, which lists the problems."""
    raise TokenizerMismatch(
        f"{path}: cannot be written without changing token ids: {'; '.join(problems)}",
        hint="nothing was written",
    )
