"""A tokenizer.json → the lists that GGUF holds. Knows nothing of weights; needs neither transformers nor tokenizers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.pretokenizer import recognise
from converters.spec import TokenizerSpec
from turbopilot.errors import CorruptCheckpoint, InvalidInput, TokenizerMismatch

# gguf.TokenType; written out so that only writer.py imports gguf.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# Spellings of the fill-in-the-middle tokens, by published model. llama.cpp guesses from token texts and
# misses some; the ids are written out.
FIM_SPELLINGS: dict[str, tuple[str, ...]] = {
    "fim_pre": ("<fim_prefix>", "<fim-prefix>", "<|fim_prefix|>", "▁<PRE>", "<｜fim▁begin｜>"),
    "fim_suf": ("<fim_suffix>", "<fim-suffix>", "<|fim_suffix|>", "▁<SUF>", "<｜fim▁hole｜>"),
    "fim_mid": ("<fim_middle>", "<fim-middle>", "<|fim_middle|>", "▁<MID>", "<｜fim▁end｜>"),
    "fim_pad": ("<fim_pad>", "<fim-pad>", "<|fim_pad|>"),
    "fim_rep": ("<reponame>", "<repo_name>", "<|repo_name|>"),
    "fim_sep": ("<file_sep>", "<|file_sep|>"),
}


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What `tokenizer.ggml.*` will say. `tokens` has one entry for every embedding row."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int] = field(default_factory=dict)
    """bos, eos, unk, pad and the fim_* ids, as far as they exist."""
    add_bos: bool = False

    def metadata(self) -> dict[str, Any]:
        """Its keys in the file."""
        return {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
            "tokenizer.ggml.merges": self.merges,
            "tokenizer.ggml.add_bos_token": self.add_bos,
            **{f"tokenizer.ggml.{role}_token_id": i for role, i in self.ids.items()},
        }

    @property
    def has_fim(self) -> bool:
        """Whether prefix, suffix and middle tokens are known."""
        return {"fim_pre", "fim_suf", "fim_mid"} <= self.ids.keys()


def read_tokenizer(
    folder: Path, spec: TokenizerSpec, n_vocab: int, config: dict[str, Any]
) -> GgufTokenizer:
    """Read `folder`/tokenizer.json as a byte-level BPE with `n_vocab` rows.

    Raises:
        InvalidInput: there is no tokenizer.json.
        CorruptCheckpoint: it is not JSON.
        TokenizerMismatch: it has an id twice or beyond the embedding, or steps that GGUF cannot express.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InvalidInput(
            f"{folder}: holds no tokenizer.json",
            hint="download it too, or make it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        model = data["model"]
        vocab: dict[str, int] = dict(model["vocab"])
        merges = [_merge(path, m) for m in model["merges"]]
        added: list[dict[str, Any]] = [dict(a) for a in data.get("added_tokens") or []]
        added_ids = {str(a["content"]): int(a["id"]) for a in added}
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise CorruptCheckpoint(
            f"{path}: not a BPE tokenizer file ({e!r})", hint="download it again"
        ) from e
    pre = _pre_tokenizer(path, data, spec.pre)

    by_id: dict[int, tuple[str, int]] = {}
    kinds = {str(a["content"]): CONTROL if a.get("special") else USER_DEFINED for a in added}
    all_ids = {**vocab, **added_ids}
    for text, token_id in all_ids.items():
        if not isinstance(token_id, int) or not 0 <= token_id < n_vocab:
            raise TokenizerMismatch(
                f"{path}: token {text!r} has id {token_id!r}, but the embedding has rows 0 to {n_vocab - 1}",
                hint="do config.json and tokenizer.json belong together?",
            )
        if token_id in by_id:
            raise TokenizerMismatch(
                f"{path}: tokens {by_id[token_id][0]!r} and {text!r} share the id {token_id}"
            )
        by_id[token_id] = (text, kinds.get(text, NORMAL))
    rows = [by_id.get(i, (f"[PAD{i}]", UNUSED)) for i in range(n_vocab)]
    ids = {
        role: all_ids[text]
        for role, spellings in FIM_SPELLINGS.items()
        for text in spellings
        if text in all_ids
    }
    for role in ("bos", "eos"):
        if (special := _special_id(config, role, path, n_vocab)) is not None:
            ids[role] = special
    return GgufTokenizer(
        "gpt2", pre, [t for t, _ in rows], [k for _, k in rows], merges, ids, spec.add_bos
    )


def _merge(path: Path, merge: Any) -> str:
    """A merge is "a b" in older files and ["a", "b"] in newer ones."""
    parts = merge.split(" ") if isinstance(merge, str) else list(merge)
    if len(parts) != 2 or not all(isinstance(p, str) and p and " " not in p for p in parts):
        raise CorruptCheckpoint(f"{path}: {merge!r} is not a merge of two tokens")
    return " ".join(parts)


def _special_id(config: dict[str, Any], role: str, path: Path, n_vocab: int) -> int | None:
    value = config.get(f"{role}_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < n_vocab:
        raise TokenizerMismatch(
            f"{path.with_name('config.json')}: {role}_token_id is {value!r}, beyond the vocabulary"
        )
    return value


def _pre_tokenizer(path: Path, data: dict[str, Any], preferred: str) -> str:
    """Refuse what llama.cpp's byte-level BPE would do otherwise: a normalizer, a leading space, another model."""
    problems = []
    if data["model"].get("type", "BPE") != "BPE":
        problems.append(f"its model is {data['model'].get('type')}, not BPE")
    if data.get("normalizer"):
        problems.append(f"it normalises text ({data['normalizer'].get('type')})")
    problems += [
        f"its BPE has {option!r} set"
        for option in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
        if data["model"].get(option)
    ]
    pre, problem = recognise(data, preferred)
    # llama.cpp takes whole words from the vocabulary before merging for this one type, and for no other
    if bool(data["model"].get("ignore_merges")) != (pre == "llama-bpe"):
        problems.append(
            "its BPE takes whole words before merging (ignore_merges), or should and does not"
        )
    if problem:
        problems.append(problem)
    problems += [
        f"added token {a.get('content')!r} swallows blanks beside it (lstrip, rstrip) or matches whole words only"
        for a in data.get("added_tokens") or []
        if a.get("lstrip") or a.get("rstrip") or a.get("single_word")
    ]
    if problems:
        raise TokenizerMismatch(
            f"{path}: cannot be written without changing token ids: {'; '.join(problems)}",
            hint="nothing was written",
        )
    return pre
