"""vocab.json and merges.txt, GPT-2's own files → a `Vocabulary`.

They say which bytes merge, not how text is cut into words before; that is the family's to say.
"""

from __future__ import annotations

from pathlib import Path

from converters.tokenizer.added import join, named_special
from converters.tokenizer.files import SideFiles, read_json, read_text
from converters.tokenizer.metadata import Vocabulary
from converters.tokenizer.rows import check_ids
from converters.tokenizer.tokenizer_json import check_merge
from turbopilot.base.errors import CorruptCheckpoint

_VERSION_LINE = "#version"  # tokenizers skips lines that begin so; "# #" is a merge


def read_vocab_merges(
    vocab_path: Path, merges_path: Path, side: SideFiles, n_vocab: int, pre: str
) -> Vocabulary:
    """Read the pair of files.

    Args:
        vocab_path: vocab.json, text → id.
        merges_path: merges.txt, a merge a line, by rank.
        side: the files beside them, which name the special tokens.
        n_vocab: rows of the embedding.
        pre: the family's pre-tokenizer, by llama.cpp's name.

    Raises:
        CorruptCheckpoint: one of them is not such a file.
        TokenizerMismatch: an id is beyond the embedding or stands twice.
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
        raise CorruptCheckpoint(f"{merges_path}: holds no merges", hint="download it again")
    # Qwen2Tokenizer composes text first; GPT2Tokenizer and CodeGenTokenizer leave it (transformers 5).
    normalizer = "NFC" if pre == "qwen2" else ""
    return Vocabulary(
        vocab_path, "gpt2", ids, types, tuple(added),
        merges=[f"{a} {b}" for a, b in dict.fromkeys(merges)], pre=pre,
        pre_origin=f"by the family: {vocab_path.name} and {merges_path.name} do not say how text is cut",
        candidates=(pre,), normalizer=normalizer,
    )  # fmt: skip
