"""Byte-level BPE tokenizer in CodeGen's layout, with added fill-in-the-middle tokens."""

from __future__ import annotations

import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from demo.corpus import Corpus

N_ROWS = 4096  # embedding rows: a few more than tokens, as in Salesforce's checkpoints
EOS = "<|endoftext|>"
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train a byte-level BPE: base vocabulary, <|endoftext|>, runs of 31…2 spaces and 9…2 tabs, FIM tokens."""
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    base = (
        N_ROWS - 32 - len(runs) - len(FIM)
    )  # 32 rows stay unused, like the rows above 50294 in CodeGen
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=base - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The added tokens split off runs of blanks before BPE, so they are split off here too.
    pieces = (p for text in corpus.train.values() for p in re.split(r" {2,}|\t{2,}", text) if p)
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=True)])
    tokenizer.add_tokens([AddedToken(run, special=False, normalized=True) for run in runs])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in FIM]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token, which must exist."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)
