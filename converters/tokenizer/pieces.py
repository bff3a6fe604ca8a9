"""SentencePiece-like BPE in a tokenizer.json: from merges by rank to pieces by score. Pure; reads no file.

tokenizers merges listed pairs of tokens by rank; llama.cpp (and SentencePiece) merges any two neighbours
whose texts together are a piece, the piece of the highest score first and the leftmost of equals. The two
come out alike where the list was made from scores, as the Hub's conversion of SentencePiece models does:
every way to part a piece into two is listed, all ways of one piece in a row.

Source: llama.cpp `src/llama-vocab.cpp`, `llm_tokenizer_spm_session`; transformers `generate_merges`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from converters.tokenizer.metadata import BYTE_TOKENS, SPACE
from converters.tokenizer.pretokenizer import Normalization, flatten


def scores_of(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[int, float]:
    """Row → score: minus the rank of the first merge that makes the piece; the least of all where none does."""
    scores = {row: -float(len(merges)) for row in vocab.values()}
    for rank in range(len(merges) - 1, -1, -1):
        scores[vocab["".join(merges[rank])]] = -float(rank)
    return scores


def merge_doubts(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Say why merging by score might come out otherwise than merging by these pairs, given by rank.

    `vocab` has neither the byte tokens nor those that are found before anything else.
    """
    listed = set(merges)
    for piece in vocab:
        for n in range(1, len(piece)):
            pair = (piece[:n], piece[n:])
            if pair[0] in vocab and pair[1] in vocab and pair not in listed:
                return [f"its merges leave out {pair[0]!r} + {pair[1]!r} = {piece!r}"]
    letters = {letter for pair in merges for part in pair for letter in part}
    if missing := sorted(letters - vocab.keys()):
        return [f"its merges join {missing[0]!r}, which is no token by itself"]
    done: set[str] = set()
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last:
            if piece in done:
                return [f"its merges make {piece!r} at two ranks"]
            done.add(piece)
        last = piece
    return []


def lacks_bytes(vocab: Mapping[str, int]) -> str:
    """What is missing of the 256 byte tokens, without which llama.cpp ends the process on an unknown letter."""
    missing = [t for t in BYTE_TOKENS if t not in vocab]
    return f"it lacks byte tokens ({missing[0]} …)" if missing else ""


def space_rule(
    pre_tokenizer: Any, text: Normalization, vocab: Mapping[str, int]
) -> tuple[str, list[str]]:
    """How a space is put before a text (see `Vocabulary.space_prefix`), and what is doubtful about it."""
    prefix = "every" if text.prepend else ""
    doubts: list[str] = []
    for step in flatten(pre_tokenizer, "pretokenizers"):
        kind = step.get("type")
        if kind == "Split" and step.get("pattern") == {"String": " "} and text.spaces:
            continue  # Gemma's: no space is left to split at
        if kind != "Metaspace" or step.get("replacement") != SPACE:
            doubts.append(f"its pre-tokenizer ({kind}) is none that llama.cpp has for such a model")
            continue
        scheme = step.get("prepend_scheme", "always")
        # Before prepend_scheme there was add_prefix_space alone
        if step.get("add_prefix_space") is False:
            scheme = "never"
        if scheme != "never":
            prefix = prefix or str(scheme)
        if step.get("split", True):
            doubts += [
                f"it parts text at every {SPACE}, and yet has the token {piece!r}"
                for piece in vocab
                if SPACE in piece[1:]
            ][:1]
    return prefix, doubts
