"""Reader for a checkpoint's tokenizer, in any of its file formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from converters.tokenizer.added import (
    added_beside,
    join,
    named_special,
    overlapping,
    refuse,
    strip_problems,
)
from converters.tokenizer.files import SideFiles, chat_templates, corrupt, read_json, read_text
from converters.tokenizer.metadata import GgufTokenizer, Vocabulary, check_ids, fill_rows
from converters.tokenizer.sentencepiece_model import read_sentencepiece
from converters.tokenizer.special import special_ids
from converters.tokenizer.tokenizer_json import check_merge, read_tokenizer_json
from converters.tokenizer.trial import settle
from turbopilot.base.errors import InvalidInput

MAX_ADDED = 1 << 20
"""Most characters of all added tokens, each of whose ends is compared; published files have up to some 50,000."""
_VERSION_LINE = "#version"  # start of lines that tokenizers skips; "# #" is a merge


def read_tokenizer(folder: Path, pre: str, n_vocab: int, config: dict[str, Any]) -> GgufTokenizer:
    """Return the tokenizer in a folder, as GGUF stores it.

    It is read from tokenizer.json, or else vocab.json and merges.txt, or else tokenizer.model, and from the small
    files that accompany it. The embedding has `n_vocab` rows; those without a token become unused. For `pre`, see
    `ArchSpec`.

    Raises:
        InvalidInput: none of these files exists.
        CorruptCheckpoint: a file is invalid.
        TokenizerMismatch: ids are duplicate or beyond the embedding, or GGUF cannot represent the tokenizer.
    """
    side = SideFiles.read(folder)
    vocabulary = _with_added(_read(folder, side, pre, n_vocab), side, n_vocab)
    return assemble(vocabulary, side, config, n_vocab)


def assemble(
    vocabulary: Vocabulary, side: SideFiles, config: dict[str, Any], n_vocab: int
) -> GgufTokenizer:
    """Return the GGUF tokenizer of a vocabulary; if there are doubts, find the pre-tokenizer by trial."""
    tokens, types = fill_rows(vocabulary.ids, vocabulary.types, n_vocab)
    ids, adds_bos = special_ids(vocabulary, side, config, n_vocab)
    least = min(vocabulary.scores.values(), default=0.0)
    scores = [
        vocabulary.scores.get(row, least) for row in range(n_vocab if vocabulary.scores else 0)
    ]
    tokenizer = GgufTokenizer(
        model=vocabulary.model,
        pre=vocabulary.pre,
        pre_origin=vocabulary.pre_origin,
        tokens=[vocabulary.renamed.get(row, text) for row, text in enumerate(tokens)],
        types=types,
        merges=vocabulary.merges,
        scores=scores,
        ids=ids,
        add_bos=adds_bos,
        normalizer=vocabulary.normalizer,
        space_prefix=vocabulary.space_prefix,
        chat_templates=chat_templates(side),
    )
    return settle(vocabulary, tokenizer) if vocabulary.doubts else tokenizer


def _read(folder: Path, side: SideFiles, pre: str, n_vocab: int) -> Vocabulary:
    whole, vocab, merges, pieces = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model")
    )
    if whole.is_file():
        return read_tokenizer_json(whole, side, n_vocab, pre)
    if vocab.is_file() and merges.is_file():
        return _read_vocab_merges(vocab, merges, side, n_vocab, pre)
    if pieces.is_file():
        return read_sentencepiece(pieces, side, n_vocab)
    raise InvalidInput(
        f"{folder}: contains no tokenizer.json, nor vocab.json and merges.txt, nor tokenizer.model",
        hint="download it, or create it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
    )


def _read_vocab_merges(
    vocab_path: Path, merges_path: Path, side: SideFiles, n_vocab: int, pre: str
) -> Vocabulary:
    """Read vocab.json (text → id) and merges.txt (one merge per line, in order of rank), GPT-2's file formats.

    They do not define a pre-tokenizer, so the family's `pre` is used.
    """
    vocab = read_json(vocab_path)
    check_ids(vocab_path, vocab, n_vocab)
    added = named_special(side, vocab)
    ids, types = join(vocab_path, vocab, added)
    lines = [line.rstrip("\r") for line in read_text(merges_path).split("\n")]
    merges = [
        check_merge(merges_path, line, vocab)
        for line in lines
        if line and not line.startswith(_VERSION_LINE)
    ]
    if not merges:
        raise corrupt(merges_path, "contains no merges")
    # in transformers 5 Qwen2Tokenizer applies NFC; GPT2Tokenizer and CodeGenTokenizer do not
    normalizer = "NFC" if pre == "qwen2" else ""
    return Vocabulary(
        vocab_path, "gpt2", ids, types, tuple(added),
        merges=[f"{a} {b}" for a, b in dict.fromkeys(merges)], pre=pre,
        pre_origin=f"by the family: {vocab_path.name} and {merges_path.name} do not name a pre-tokenizer",
        candidates=(pre,), normalizer=normalizer,
    )  # fmt: skip


def _with_added(vocabulary: Vocabulary, side: SideFiles, n_vocab: int) -> Vocabulary:
    """Add the tokens that only the accompanying files define, such as a fine-tune's [PAD].

    A plain token to which they give a role becomes an added token too, as in transformers.
    """
    beside = added_beside(side)
    texts = {t.text for t in beside}
    beside += [t for t in named_special(side, vocabulary.ids) if t.text not in texts]
    ids, types = join(side.folder / "tokenizer_config.json", vocabulary.ids, beside)
    check_ids(vocabulary.path, ids, n_vocab)
    more = [t for t in beside if t.id not in vocabulary.types]
    if problems := strip_problems(side, more):
        refuse(side.folder / "tokenizer_config.json", problems)
    added = (*vocabulary.added, *more)
    if (n := sum(len(t.text) for t in added)) > MAX_ADDED:
        raise corrupt(
            vocabulary.path,
            f"its added tokens have {n:,} characters; at most {MAX_ADDED:,} are plausible",
        )
    return replace(
        vocabulary,
        ids=ids,
        types={**vocabulary.types, **{t.id: types[t.id] for t in more}},
        added=added,
        beside=tuple(more),
        renamed={row: t for row, t in vocabulary.renamed.items() if row not in types},
        doubts=(*vocabulary.doubts, *overlapping(added)[:1]),
    )
