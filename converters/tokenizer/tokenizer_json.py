"""Reader for tokenizer.json, the file format of the tokenizers library, without that library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.tokenizer.added import join, parse_added, refuse, strip_problems
from converters.tokenizer.files import SideFiles, corrupt, read_json
from converters.tokenizer.looks import BYTE_LETTERS, joining, other_texts, taken_for_signs
from converters.tokenizer.metadata import (
    BYTE,
    BYTE_TOKENS,
    UNKNOWN,
    AddedToken,
    Vocabulary,
    check_ids,
)
from converters.tokenizer.pieces import lacks_bytes, merge_doubts, scores_of, space_rule
from converters.tokenizer.pretokenizer import Normalization, flatten, read_normalizer, recognise
from turbopilot.base.quoting import quoted, shortened

_ODD_OPTIONS = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")


def read_tokenizer_json(path: Path, side: SideFiles, n_vocab: int, preferred: str) -> Vocabulary:
    """Read a tokenizer.json that contains a BPE.

    `preferred` is the pre-tokenizer name to use if llama.cpp has several.

    Raises:
        TokenizerMismatch: GGUF cannot represent the tokenizer; the message lists every reason.
    """
    data = read_json(path)
    model = data.get("model")
    if not isinstance(model, dict):
        raise corrupt(path, "it has no model")
    if (kind := model.get("type", "BPE")) != "BPE":
        refuse(path, [f"its model is {shortened(str(kind))}, not BPE"])
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise corrupt(path, f"its vocabulary is {type(vocab).__name__}, not an object")
    entries = data.get("added_tokens") or []
    if not isinstance(entries, list):
        raise corrupt(path, "added_tokens is not a list")
    added = parse_added(path, entries)
    ids, types = join(path, vocab, added)
    check_ids(path, ids, n_vocab)
    listed = model.get("merges")
    if not isinstance(listed, list):
        raise corrupt(path, f"its merges are {type(listed).__name__}, not a list")
    merges = [check_merge(path, merge, vocab) for merge in listed]
    text = read_normalizer(data.get("normalizer"))
    first = _first_token(data.get("post_processor"))
    named = {"bos": first, "unk": model.get("unk_token")}
    roles = {role: ids[t] for role, t in named.items() if isinstance(t, str) and t in ids}
    base = Vocabulary(
        path, "", ids, types, tuple(added), pre_origin="by structure", normalizer="NFC" if text.nfc else "",
        first_token=first, roles=roles,
    )  # fmt: skip
    steps = flatten(data.get("pre_tokenizer"), "pretokenizers")
    if text.spaces or any(step.get("type") == "Metaspace" for step in steps):
        vocabulary, more = _with_pieces(base, data, vocab, merges, text)
    else:
        vocabulary, more = _with_bytes(base, data, vocab, merges, preferred)
    problems = [*_numbering(vocab, added), *strip_problems(side, added)]
    problems += [f"its BPE uses {option!r}" for option in _ODD_OPTIONS if model.get(option)]
    problems += [text.problem] if text.problem else []
    if problems := problems + more:
        refuse(path, problems)
    return vocabulary


def _with_bytes(
    base: Vocabulary,
    data: dict[str, Any],
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    preferred: str,
) -> tuple[Vocabulary, list[str]]:
    """Return a byte-level BPE vocabulary, and its problems."""
    model = data["model"]
    ignore_merges = bool(model.get("ignore_merges"))
    found = recognise(data.get("pre_tokenizer"), ignore_merges=ignore_merges, preferred=preferred)
    problems = [found.problem] if found.problem else []
    if model.get("byte_fallback") and not set(BYTE_LETTERS) <= vocab.keys():
        problems.append("its BPE is byte-level, but also falls back on byte tokens (byte_fallback)")
    if not merges:
        problems.append("its BPE has no merges")
    doubts = [found.doubt] if found.doubt else []
    doubts += [
        f"its token {quoted(token)} joins whitespace with other text, but llama.cpp splits them"
        for token in joining(map("".join, merges), found.blanks)[:1]
    ]
    signs = taken_for_signs(vocab, [t.text for t in base.added])
    return replace(
        base, model="gpt2", pre=found.pre, candidates=found.candidates or (found.pre,), doubts=tuple(doubts),
        # of duplicate merges, tokenizers uses the last and llama.cpp the first
        merges=[f"{a} {b}" for a, b in reversed(dict.fromkeys(reversed(merges)))],
        renamed=other_texts(signs, base.ids),
    ), problems  # fmt: skip


def _with_pieces(
    base: Vocabulary,
    data: dict[str, Any],
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    text: Normalization,
) -> tuple[Vocabulary, list[str]]:
    """Return a SentencePiece-like BPE vocabulary, and its problems."""
    model = data["model"]
    problems = [reason] if (reason := lacks_bytes(vocab)) else []
    if not model.get("byte_fallback"):
        problems.append(
            "its BPE does not fall back on bytes for unknown characters (byte_fallback)"
        )
    found_first = {*BYTE_TOKENS, *(t.text for t in base.added)}
    plain = {piece: row for piece, row in vocab.items() if piece not in found_first}
    prefix, doubts = space_rule(data.get("pre_tokenizer"), text, plain)
    doubts += merge_doubts(plain, merges)
    if model.get("ignore_merges"):
        doubts.append("its BPE takes whole texts before merging (ignore_merges)")
    doubts += [
        f"llama.cpp treats the plain token {quoted(text)} as special"
        for text in taken_for_signs(vocab, found_first)
    ]
    doubts += [
        f"added token {quoted(t.text)} is matched after a space is added before the text"
        for t in base.added
        if prefix and t.normalized and not t.special
    ]
    types = base.types | {base.ids[t]: BYTE for t in BYTE_TOKENS if t in base.ids}
    if "unk" in base.roles:
        types[base.roles["unk"]] = UNKNOWN
    return replace(
        base, model="llama", types=types, pre="default", candidates=("default",), doubts=tuple(doubts),
        scores=scores_of(vocab, merges), space_prefix=prefix,
    ), problems  # fmt: skip


def check_merge(path: Path, merge: Any, vocab: dict[str, int]) -> tuple[str, str]:
    """Return a merge: "a b" in older files, ["a", "b"] in newer ones. "a", "b" and "ab" must be tokens."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    is_pair = isinstance(parts, list) and len(parts) == 2
    if not is_pair or not all(isinstance(p, str) and p for p in parts):
        raise corrupt(path, f"{quoted(merge)} is not a merge of two tokens")
    left, right = parts
    for token in (left, right, left + right):
        if token not in vocab:
            raise corrupt(
                path, f"the merge {quoted(merge)} needs {quoted(token)}, which is not a token"
            )
    return left, right


def _numbering(vocab: dict[str, int], added: list[AddedToken]) -> list[str]:
    """Describe ids of added tokens that tokenizers ignores: it numbers new tokens from the vocabulary's size on."""
    new = [t for t in added if t.text and t.text not in vocab]
    return [
        f"added token {quoted(t.text)} has id {t.id}, but tokenizers gives it {len(vocab) + n}"
        for n, t in enumerate(new)
        if t.id != len(vocab) + n
    ][:3]


def _first_token(node: Any) -> str | None:
    """Return the token that a TemplateProcessing adds before every text: "" if none, None without a template."""
    for step in flatten(node, "processors"):
        if step.get("type") == "TemplateProcessing":
            single = step.get("single")
            first = single[0] if isinstance(single, list) and single else None
            token = first.get("SpecialToken") if isinstance(first, dict) else None
            return str(token.get("id")) if isinstance(token, dict) else ""
    return None
