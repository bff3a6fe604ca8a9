"""Checkpoints of models whose states cannot be cut: recurrent ones, and hybrids of these with attention.

Such a model can continue a prompt only from where it stopped. After a completion that the user did not accept, the slot
is of no use for the next prompt, so states are stored on the way: at intervals, and shortly before the prompt's
end: the next prompt of the same editor differs there.
"""

from __future__ import annotations

from typing import Final

from serve.decoder import Decoder
from serve.engine.prefix_store import PrefixStore
from serve.engine.sequence import Sequence

# Tokens between two checkpoints: about a second of computation for a small model on a CPU.
INTERVAL: Final = 512
# Tokens between the last checkpoint and the prompt's end. The next key may change how the last ones are tokenized.
TAIL: Final = 16


class Checkpoints:
    """Stores states of running prompts.

    Args:
        decoder: the model, whose states cannot be cut.
        store: the prefix cache.
    """

    def __init__(self, decoder: Decoder, store: PrefixStore) -> None:
        self._decoder, self._store = decoder, store

    def plan(self, s: Sequence) -> None:
        """Set the next checkpoint of a sequence."""
        s.checkpoint = 0
        if not s.n_scored:
            interval = (s.n_past // INTERVAL + 1) * INTERVAL
            places = (at for at in (interval, s.n_prompt - TAIL) if s.n_past < at < s.n_prompt)
            s.checkpoint = min(places, default=0)

    def keep(self, s: Sequence) -> None:
        """Store the state of a sequence that has reached its checkpoint."""
        if not s.checkpoint or s.n_past < s.checkpoint:
            return
        tokens, adapters = s.tokens[: s.n_past], s.request.adapters
        if s.n_past == s.checkpoint and not self._store.covers(tokens, adapters):
            self._store.put(tokens, self._decoder.save(s.slot), adapters)
        self.plan(s)
