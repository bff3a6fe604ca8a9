"""Ids of special tokens for GGUF. Every id that llama.cpp would otherwise derive from token texts is written.

Source: llama.cpp `src/llama-vocab.cpp`, `llama_vocab::impl::load`, "special tokens" and "auto-detect special
tokens by text"; the model cards of the repositories that the spellings come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from converters.tokenizer.files import SideFiles
from converters.tokenizer.metadata import Vocabulary
from turbopilot.base.errors import TokenizerMismatch
from turbopilot.base.quoting import quoted

# Spellings of the fill-in-the-middle tokens in published models; the first that a vocabulary contains is used.
# llama.cpp derives these ids from token texts and misses some.
FIM_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "fim_pre": (
        "<fim_prefix>", "<fim-prefix>", "<|fim_prefix|>", "▁<PRE>", "<｜fim▁begin｜>", "<[fim-prefix]>",
        "<|code_prefix|>", "<|prefix|>", "[PREFIX]", "<PRE>",
    ),
    "fim_suf": (
        "<fim_suffix>", "<fim-suffix>", "<|fim_suffix|>", "▁<SUF>", "<｜fim▁hole｜>", "<[fim-suffix]>",
        "<|code_suffix|>", "<|suffix|>", "[SUFFIX]", "<SUF>",
    ),
    "fim_mid": (
        "<fim_middle>", "<fim-middle>", "<|fim_middle|>", "▁<MID>", "<｜fim▁end｜>", "<[fim-middle]>",
        "<|code_middle|>", "<|middle|>", "[MIDDLE]", "<MID>",
    ),
    "fim_pad": ("<fim_pad>", "<fim-pad>", "<|fim_pad|>"),
    "fim_rep": ("<reponame>", "<repo_name>", "<|repo_name|>", "<fim-repo>", "<|fim_repo|>", "<REPO>"),
    "fim_sep": ("<file_sep>", "<|file_sep|>", "<|file_separator|>", "<filename>"),
}  # fmt: skip

# Tokens that end an answer or an infill, if not the end-of-text token.
_TURN_ENDS: Final = (
    "▁<EOT>", "<|eot_id|>", "<|im_end|>", "<|EOT|>", "<|end|>", "<end_of_turn>", "<EOT>", "[EOT]",
)  # fmt: skip
# End-of-text tokens, for models whose files do not name one.
_TEXT_ENDS: Final = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
# llama.cpp treats these as FIM_PAD, and therefore as an end of generation.
_PAD_BY_LOOKS: Final = ("[PAD]", "<PAD>")


def special_ids(
    vocabulary: Vocabulary, side: SideFiles, config: dict[str, Any], n_vocab: int
) -> tuple[dict[str, int], bool]:
    """Return bos, eos, eot, eom, unk, pad and the fim_* ids, if the files have them, and whether BOS is added.

    EOS is read from config.json, then generation_config.json, then the tokenizer, as in transformers' generation.
    BOS, UNK and PAD belong to the tokenizer, so config.json comes last.
    """
    ids = vocabulary.ids
    found: dict[str, int] = {}
    for role in ("bos", "unk", "pad"):
        name = side.name_of(role)
        named = [ids[name]] if name in ids else []
        written = _ids(side.folder / "config.json", config, role, n_vocab, strict=role == "bos")
        if choices := named + _listed(vocabulary.roles, role) + written:
            found[role] = choices[0]
    if vocabulary.model == "gpt2":
        found.pop("unk", None)  # not needed, since every byte is a token
    adds = "bos" in found and _adds_bos(vocabulary, side)
    ends = _ends(vocabulary, side, config, n_vocab)
    found["eos"] = ends[0]
    found.setdefault("bos", ends[0])  # llama.cpp's default is 11; GPT-2 uses one token for both
    found |= _more_ends(ids, ends)
    for role, spellings in FIM_SPELLINGS.items():
        if known := [ids[text] for text in spellings if text in ids]:
            found[role] = known[0]
    if "fim_pad" not in found and any(text in ids for text in _PAD_BY_LOOKS):
        found["fim_pad"] = ends[0]  # already ends generation, so this has no effect
    return found, adds


def _adds_bos(vocabulary: Vocabulary, side: SideFiles) -> bool:
    """Return whether BOS is added: by the setting, else the tokenizer's template, else the model's default."""
    setting = side.config.get("add_bos_token")
    if isinstance(setting, bool):
        return setting
    if (first := vocabulary.first_token) is not None:
        return first != "" and side.name_of("bos") in (None, first)
    return vocabulary.model == "llama"


def _ends(
    vocabulary: Vocabulary, side: SideFiles, config: dict[str, Any], n_vocab: int
) -> list[int]:
    """Return the ids of tokens that end a text or an answer, EOS first."""
    ids = vocabulary.ids
    ends = _ids(side.folder / "config.json", config, "eos", n_vocab)
    ends += _ids(side.folder / "generation_config.json", side.generation, "eos", n_vocab)
    if (name := side.name_of("eos")) in ids:
        ends.append(ids[name])
    ends += _listed(vocabulary.roles, "eos")
    ends = ends or [ids[text] for text in _TEXT_ENDS if text in ids][:1]
    if not ends:
        # llama.cpp's default is 11, a comma in GPT-2
        raise TokenizerMismatch(
            f"{vocabulary.path}: no file names the end-of-text token",
            hint="set eos_token_id in config.json, or eos_token in tokenizer_config.json",
        )
    return list(dict.fromkeys(ends))


def _more_ends(ids: Mapping[str, int], ends: list[int]) -> dict[str, int]:
    """Return `eot` and `eom`: other tokens that end generation, end-of-turn tokens first.

    An end-of-turn token that no file lists becomes eot: it ends an infill and does not occur in text.
    """
    turns = [ids[text] for text in _TURN_ENDS if text in ids]
    listed = [row for row in turns if row in ends] + ends[1:]
    rest = [row for row in dict.fromkeys(listed or turns[:1]) if row != ends[0]]
    return dict(zip(("eot", "eom"), rest, strict=False))


def _ids(
    path: Path, values: Mapping[str, Any], role: str, n_vocab: int, *, strict: bool = True
) -> list[int]:
    """Return the ids in `{role}_token_id`; raise for invalid ids if `strict`, else skip them."""
    value = values.get(f"{role}_token_id")
    rows = value if isinstance(value, list) else [] if value is None else [value]
    good = [row for row in rows if type(row) is int and 0 <= row < n_vocab]
    if strict and len(good) < len(rows):
        raise TokenizerMismatch(
            f"{path}: {role}_token_id is {quoted(value)}, not an id in the vocabulary of {n_vocab} rows"
        )
    return good


def _listed(roles: Mapping[str, int], role: str) -> list[int]:
    return [roles[role]] if role in roles else []
