"""Added tokens, which are found in text before anything else: their files, and where llama.cpp differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from converters.tokenizer.files import SideFiles, corrupt, token_text
from converters.tokenizer.metadata import CONTROL, USER_DEFINED, AddedToken
from turbopilot.base.errors import TokenizerMismatch
from turbopilot.base.quoting import quoted

_ROW = re.compile("[0-9]{1,10}")  # int() itself ends on thousands of digits
_FLAGS = ("lstrip", "rstrip", "single_word")
# in transformers 4, and in 5, where roles are named freely
_MORE_SPECIAL = ("additional_special_tokens", "extra_special_tokens")
# Tokens of these roles are added by id; text does not contain them.
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
    """Return the added tokens with ids in the files beside a tokenizer."""
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
            raise corrupt(where, f"token {quoted(text)} has the id {quoted(token_id)}")
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
    """Return vocabulary tokens that a file beside it makes special, e.g. GPT-2's <|endoftext|>."""
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
    """Describe tokens whose flags llama.cpp ignores, if text may contain them."""
    harmless = {side.name_of(role) for role in _NEVER_IN_TEXT}
    return [
        f"added token {quoted(t.text)} removes blanks beside it (lstrip, rstrip) or matches whole words only"
        for t in added
        if t.strips and not (t.special and t.text in harmless)
    ]


def overlapping(added: Iterable[AddedToken]) -> list[str]:
    """Describe tokens whose end is another's beginning, except runs of one character.

    tokenizers takes the leftmost token of a text, llama.cpp the longest: with "<a><b" and "<b>c" they would split
    "<a><b>c" differently.
    """
    texts = [t.text for t in added]
    mixed = _heads(text for text in texts if len(set(text)) > 1)
    every = _heads(texts)
    return [
        f"added token {quoted(text)} ends as another begins"
        for text in texts
        if any(text[n:] in (every if len(set(text)) > 1 else mixed) for n in range(1, len(text)))
    ]


def _heads(texts: Iterable[str]) -> set[str]:
    return {text[:n] for text in texts for n in range(1, len(text))}


def refuse(path: Path, problems: Iterable[str]) -> NoReturn:
    """Raise TokenizerMismatch with what GGUF cannot express."""
    raise TokenizerMismatch(
        f"{path}: cannot be written without changing token ids: {'; '.join(problems)}",
        hint="nothing was written",
    )
