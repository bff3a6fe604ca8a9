"""Vocabulary, merges and added tokens in a checkpoint's files, compared with a GGUF's metadata.

Texts show a lost merge or token only if they happen to contain it, and tokens that are added around a text never appear
in a comparison of texts. This module reads the files itself, independently of `converters`.

Source: the formats of `tokenizers` (tokenizer.json) and of GPT-2 (vocab.json, merges.txt); ggml/docs/gguf.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from turbopilot.verify.criteria import Failure
from turbopilot.verify.windows import FIM_SPELLINGS

_PREFIX: Final = "tokenizer.ggml."
_SPACE: Final = "▁"  # SentencePiece's space; programs write a plain space in added tokens
_FIM_KEYS: Final = ("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id")
_FIM_ROLES: Final = ("prefix", "suffix", "middle")
_ROLE_OF: Final = {text: i for spelling in FIM_SPELLINGS for i, text in enumerate(spelling)}


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Contents of a checkpoint's tokenizer files; empty or None if they do not contain it."""

    tokens: Mapping[int, str] = field(default_factory=dict)  # id → text
    merges: tuple[str, ...] = ()  # "a b", the last one of duplicates
    adds_bos: bool | None = None  # whether an encoded text begins with an added token
    adds_eos: bool | None = None  # whether it ends with one


def of_folder(folder: Path) -> TokenizerFiles:
    """Read the files of a checkpoint folder; unreadable ones count as missing."""
    data = _json(folder / "tokenizer.json")
    model = data.get("model")
    model = model if isinstance(model, dict) else {}
    vocab, merges = model.get("vocab"), model.get("merges")
    if not data and (folder / "merges.txt").is_file():
        vocab = _json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text("utf-8", errors="replace").split("\n")
        merges = [line for line in lines if line and not line.startswith("#version")]
    tokens = {i: text for text, i in vocab.items()} if isinstance(vocab, dict) else {}
    for added in data.get("added_tokens") or ():
        if isinstance(added, dict) and isinstance(added.get("id"), int):
            tokens[added["id"]] = str(added.get("content"))
    settings = _json(folder / "tokenizer_config.json")
    first, last = _added(data.get("post_processor")) if data else (None, None)
    return TokenizerFiles(
        tokens if model.get("type", "BPE") == "BPE" else {},
        _unique(merges if isinstance(merges, list) else ()),
        _agreed(settings.get("add_bos_token"), first),
        _agreed(settings.get("add_eos_token"), last),
    )


def of_gguf(metadata: Mapping[str, Any]) -> TokenizerFiles:
    """Return the same facts of a GGUF file."""
    tokens, merges = (metadata.get(_PREFIX + key) for key in ("tokens", "merges"))
    adds = (metadata.get(f"{_PREFIX}add_{end}_token") for end in ("bos", "eos"))
    return TokenizerFiles(
        dict(enumerate(map(str, tokens))) if isinstance(tokens, list) else {},
        tuple(map(str, merges)) if isinstance(merges, list) else (),
        *(value if isinstance(value, bool) else None for value in adds),
    )


def differences(files: TokenizerFiles, metadata: Mapping[str, Any]) -> list[Failure]:
    """Return a failure for each kind of difference between a checkpoint's tokenizer and a GGUF's metadata."""
    given = of_gguf(metadata)
    found = []
    if message := _wrong_token(files.tokens, given.tokens):
        found.append(Failure("vocabulary", message))
    # A SentencePiece model in a GGUF has scores instead of merges.
    has_merges = files.merges and metadata.get(_PREFIX + "model") == "gpt2"
    if has_merges and (message := _wrong_merge(files.merges, given.merges)):
        found.append(Failure("merges", message))
    for end, ours, theirs in (
        ("bos", files.adds_bos, given.adds_bos),
        ("eos", files.adds_eos, given.adds_eos),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            key = f"{_PREFIX}add_{end}_token"
            words = "adds no such token" if theirs else "adds this token"
            found.append(Failure(key, f"{key} is {theirs}, but the checkpoint {words}"))
    return found + [
        Failure("fill-in-the-middle", m) for m in _wrong_infilling(files.tokens, metadata)
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _unique(merges: Sequence[Any]) -> tuple[str, ...]:
    """Return the merges as texts. Of duplicates, `tokenizers` uses the last."""
    texts = [" ".join(map(str, m)) if isinstance(m, list) else str(m) for m in merges]
    return tuple(reversed(dict.fromkeys(reversed(texts))))


def _added(step: Any) -> tuple[bool | None, bool | None]:
    """Return whether a post-processor adds a token before and after a text; None if it is of an unknown kind."""
    if step is None:
        return False, False
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel":
        return False, False
    if kind == "Sequence":
        parts = [_added(one) for one in step.get("processors") or ()]
        if any(None in one for one in parts):
            return None, None
        return any(first for first, _ in parts), any(last for _, last in parts)
    if kind == "TemplateProcessing" and isinstance(single := step.get("single"), list):
        kinds = [next(iter(one), "") if isinstance(one, dict) else "" for one in single]
        if "Sequence" in kinds:
            at = kinds.index("Sequence")
            return "SpecialToken" in kinds[:at], "SpecialToken" in kinds[at:]
    return None, None


def _agreed(setting: Any, template: bool | None) -> bool | None:
    """Return whether a token is added; None if the files do not say it, or contradict each other."""
    said = {value for value in (setting, template) if isinstance(value, bool)}
    return said.pop() if len(said) == 1 else None


def _same(ours: str, theirs: str) -> bool:
    """Return whether a GGUF's text stands for a token: converters may rename plain tokens that look special."""
    renamed = theirs.startswith("[") and theirs.endswith("]") and ours in theirs
    return theirs == ours or renamed or theirs.replace(_SPACE, " ") == ours.replace(_SPACE, " ")


def _wrong_token(ours: Mapping[int, str], theirs: Mapping[int, str]) -> str:
    wrong = [i for i, text in sorted(ours.items()) if i not in theirs or not _same(text, theirs[i])]
    if not ours or not wrong:
        return ""
    i = wrong[0]
    given = repr(theirs[i]) if i in theirs else "missing"
    more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
    return f"the vocabulary differs: token {i:,} is {given} in the GGUF and {ours[i]!r} in the checkpoint{more}"


def _wrong_merge(ours: Sequence[str], theirs: Sequence[str]) -> str:
    if tuple(ours) == tuple(theirs):
        return ""
    known, given = set(ours), set(theirs)
    lost, surplus = [m for m in ours if m not in given], [m for m in theirs if m not in known]
    if lost:
        return f"the merges differ: {len(lost):,} of {len(ours):,} are missing, {lost[0]!r} first"
    if surplus:
        return (
            f"the merges differ: {len(surplus):,} are not in the checkpoint, {surplus[0]!r} first"
        )
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    return f"the merges differ: they are in another order from merge {at:,} on"


def _wrong_infilling(tokens: Mapping[int, str], metadata: Mapping[str, Any]) -> Iterator[str]:
    known = any(text in _ROLE_OF for text in tokens.values())
    for role, key in enumerate(_FIM_KEYS):
        value = metadata.get(_PREFIX + key)
        if not isinstance(value, int) or not known:
            continue
        text = tokens.get(value, "")
        if _ROLE_OF.get(text) != role:
            words = f"{_PREFIX}{key} is {value} ({text!r})"
            yield f"{words}, which is not the checkpoint's fill-in-the-middle {_FIM_ROLES[role]}"
