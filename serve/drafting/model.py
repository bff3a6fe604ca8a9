"""Draft tokens from a second, smaller model with the same vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.decoder import BatchItem, Decoder
from serve.prefix_tree import common_prefix
from turbopilot.base.errors import InvalidInput, TurboPilotError

log = logging.getLogger("turbopilot.engine")

# Number of tokens whose bytes are compared: enough to distinguish tokenizers of the same size.
_COMPARED = 4096


@dataclass(frozen=True, slots=True)
class DraftWish:
    """A sequence to continue by `n` tokens."""

    tokens: Sequence[int]
    n: int


class DraftModel:
    """Greedy continuations by a small model, which has a sequence for each slot of the engine.

    Args:
        decoder: the small model; it must not be used elsewhere.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._held: list[list[int]] = [[] for _ in range(decoder.n_seq)]
        self._broken = False

    def warm_up(self) -> None:
        """See `Decoder.warm_up`."""
        self._decoder.warm_up()

    def propose(self, wanted: Mapping[int, DraftWish]) -> dict[int, list[int]]:
        """Return draft tokens by slot.

        Sequences that do not fit into the small model's context are left out. After a failure, return nothing.
        """
        if self._broken:
            return {}
        n_ctx = self._decoder.n_ctx
        fitting = {i: w for i, w in wanted.items() if w.n and len(w.tokens) + w.n <= n_ctx}
        try:
            return self._propose(fitting) if fitting else {}
        except TurboPilotError as e:
            log.warning("the draft model failed and is no longer used: %s", e)
            self._broken = True
            return {}

    def _propose(self, wanted: Mapping[int, DraftWish]) -> dict[int, list[int]]:
        last = self._read(wanted)
        found: dict[int, list[int]] = {i: [] for i in wanted}
        while last:
            batch = [BatchItem(t, len(self._held[i]), i, True) for i, t in last.items()]
            rows = self._decoder.decode(batch)
            following = {}
            for (i, token), row in zip(last.items(), rows, strict=True):
                self._held[i].append(token)
                chosen = int(row.argmax())
                if self._decoder.is_eog(chosen):
                    continue
                found[i].append(chosen)
                if len(found[i]) < wanted[i].n:
                    following[i] = chosen
            last = following
        return found

    def _read(self, wanted: Mapping[int, DraftWish]) -> dict[int, int]:
        """Prefill all tokens except the last of each sequence; return those last tokens by slot."""
        items: list[BatchItem] = []
        for i, w in wanted.items():
            *before, _ = w.tokens
            held = self._held[i]
            keep = common_prefix(held, before)
            if keep < len(held) and not self._decoder.remove(i, keep):
                self._decoder.remove(i, 0)
                keep = 0
            items += [BatchItem(t, k, i, False) for k, t in enumerate(before[keep:], keep)]
            self._held[i] = before
        for at in range(0, len(items), self._decoder.n_batch):
            self._decoder.decode(items[at : at + self._decoder.n_batch])
        return {i: w.tokens[-1] for i, w in wanted.items()}


def check_same_vocabulary(model: Decoder, draft: Decoder) -> None:
    """Raise InvalidInput if the draft model's vocabulary differs from the model's."""
    differs = next(
        (t for t in range(min(model.n_vocab, _COMPARED)) if model.piece(t) != draft.piece(t)), None
    )
    if model.n_vocab != draft.n_vocab or differs is not None:
        where = (
            f"{draft.n_vocab} tokens, not {model.n_vocab}"
            if model.n_vocab != draft.n_vocab
            else f"token {differs} is {draft.piece(differs or 0)!r}, not {model.piece(differs or 0)!r}"
        )
        raise InvalidInput(
            f"--draft {draft.name}: its vocabulary differs from {model.name}'s ({where})",
            hint="use a smaller model of the same family, such as codegen-350M for codegen-6B",
        )
