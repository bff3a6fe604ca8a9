"""SentencePiece-like BPE in a tokenizer.json: piece scores from merge ranks.

tokenizers merges listed pairs of tokens by rank. llama.cpp and SentencePiece merge any two neighbours that form a
piece, the highest score first, the leftmost of equals. Both agree if the list was generated from scores, as in the
Hub's conversion of SentencePiece models: it lists all ways to split a piece into two, one after another.

Source: llama.cpp `src/llama-vocab.cpp`, `llm_tokenizer_spm_session`; transformers `generate_merges`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from converters.tokenizer.metadata import BYTE_TOKENS, SPACE
from converters.tokenizer.pretokenizer import Normalization, flatten
from turbopilot.base.quoting import quoted, shortened


def scores_of(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> dict[int, float]:
    """Return row → minus the rank of the first merge that forms the piece; the lowest score if none does."""
    scores = {row: -float(len(merges)) for row in vocab.values()}
    for rank in range(len(merges) - 1, -1, -1):
        scores[vocab["".join(merges[rank])]] = -float(rank)
    return scores


def merge_doubts(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Return why merging by score might differ from merging by these pairs, which are in order of rank.

    `vocab` contains neither byte tokens nor added tokens.
    """
    listed = set(merges)
    for piece in vocab:
        for n in range(1, len(piece)):
            pair = (piece[:n], piece[n:])
            if pair[0] in vocab and pair[1] in vocab and pair not in listed:
                return [f"its merges lack {quoted(pair[0])} + {quoted(pair[1])} = {quoted(piece)}"]
    letters = {letter for pair in merges for part in pair for letter in part}
    if missing := sorted(letters - vocab.keys()):
        return [f"its merges join {quoted(missing[0])}, which is not a token"]
    done: set[str] = set()
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last:
            if piece in done:
                return [f"its merges form {quoted(piece)} at two ranks"]
            done.add(piece)
        last = piece
    return []


def lacks_bytes(vocab: Mapping[str, int]) -> str:
    """Describe missing byte tokens, without which llama.cpp aborts on an unknown character."""
    missing = [t for t in BYTE_TOKENS if t not in vocab]
    return f"it lacks byte tokens ({missing[0]} …)" if missing else ""


def space_rule(
    pre_tokenizer: Any, text: Normalization, vocab: Mapping[str, int]
) -> tuple[str, list[str]]:
    """Return the value of `Vocabulary.space_prefix`, and doubts about it."""
    prefix = "every" if text.prepend else ""
    doubts: list[str] = []
    for step in flatten(pre_tokenizer, "pretokenizers"):
        kind = step.get("type")
        if kind == "Split" and step.get("pattern") == {"String": " "} and text.spaces:
            continue  # Gemma's; has no effect, since the normalizer replaced all spaces
        if kind != "Metaspace" or step.get("replacement") != SPACE:
            doubts.append(
                f"its pre-tokenizer ({shortened(str(kind))}) is not one that llama.cpp has for SentencePiece models"
            )
            continue
        scheme = step.get("prepend_scheme", "always")
        # older files have only add_prefix_space
        if scheme != "never" and step.get("add_prefix_space") is not False:
            prefix = prefix or str(scheme)
        if step.get("split", True):
            doubts += [
                f"it splits text at every {SPACE}, but has the token {quoted(piece)}"
                for piece in vocab
                if SPACE in piece[1:]
            ][:1]
    return prefix, doubts
