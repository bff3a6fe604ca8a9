"""A byte-level BPE in CodeGen's layout, with fill-in-the-middle tokens of its own."""

from __future__ import annotations

import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from demo.corpus import Corpus

N_ROWS = 4096  # embedding rows; a few more than tokens, as in Salesforce's checkpoints
EOS = "<|endoftext|>"
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Byte-level BPE in CodeGen's layout: base vocabulary, <|endoftext|>, runs of 31..2 spaces, 9..2 tabs, FIM."""
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    base = (
        N_ROWS - 32 - len(runs) - len(FIM)
    )  # 32 rows stay unused, as rows above 50294 do in CodeGen
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=base - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Runs of blanks are cut out by added tokens before BPE sees the text, so they are cut here too.
    pieces = (p for text in corpus.train.values() for p in re.split(r" {2,}|\t{2,}", text) if p)
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=True)])
    tokenizer.add_tokens([AddedToken(run, special=False, normalized=True) for run in runs])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in FIM]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)
