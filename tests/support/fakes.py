"""Decoder without a model, which asserts that it is used correctly."""

from __future__ import annotations

import ast
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve.adapters import AdapterSet
from serve.decoder import BatchItem, Logits
from serve.engine.sequence import Sequence as EngineSequence
from serve.prompt.bound_layout import FimLayouts
from serve.prompt.layout_choice import choose_layouts
from serve.request import GenerationRequest, SamplingParams
from serve.sampling import Sampler, seed_sequence
from turbopilot.base.errors import TurboPilotError

EOG = 256


@dataclass(frozen=True)
class FimIds:
    """Ids of the fake vocabulary's tokens for fill-in-the-middle."""

    prefix: int = 257
    suffix: int = 258
    middle: int = 259


FIM = FimIds()
N_VOCAB = 260
FIM_NAMES = {"<fim_prefix>": FIM.prefix, "<fim_suffix>": FIM.suffix, "<fim_middle>": FIM.middle}


def fake_layouts(wanted: str | None = None, names: Iterable[str] = FIM_NAMES) -> FimLayouts:
    """Return the layouts of a vocabulary of bytes, an end token and these tokens."""
    tokens = [*(f"byte {i}" for i in range(EOG)), "<end>", *names]
    found = choose_layouts({"tokenizer.ggml.tokens": tokens}, wanted=wanted)
    assert found
    return found


FIM_LAYOUTS = fake_layouts()

Reply = Callable[[Sequence[int]], int]


def letters(history: Sequence[int]) -> int:
    """Return a letter that depends on every token of the history, so that a lost token changes it."""
    return ord("a") + zlib.crc32(repr(list(history)).encode()) % 26


def certain(token: int) -> Logits:
    """Return logits with which the token is chosen at any temperature."""
    row = np.zeros(N_VOCAB, dtype=np.float32)
    row[token] = 30.0
    return row


def around_the_cursor(prompt: Sequence[int]) -> tuple[str, str]:
    """Return the prefix and the suffix in the tokens of a fill-in-the-middle prompt."""
    start, gap, end = (prompt.index(t) for t in (FIM.prefix, FIM.suffix, FIM.middle))
    assert start < gap < end == len(prompt) - 1
    return bytes(prompt[start + 1 : gap]).decode(), bytes(prompt[gap + 1 : end]).decode()


def script(text: str, *, after: str = "?") -> Reply:
    """Return a reply function that completes a prompt ending in `after` with `text`."""
    says: list[int] = [*text.encode(), EOG]
    end = list(after.encode())

    def reply(history: Sequence[int]) -> int:
        for n in range(len(says)):
            cut = len(history) - n
            if list(history[cut:]) == says[:n] and list(history[cut - len(end) : cut]) == end:
                return says[n]
        return EOG

    return reply


def sequence(i: int, prompt: Sequence[int], max_tokens: int) -> EngineSequence:
    """Return a sequence for tests of the scheduler, which does not use the sampler."""
    sampler = Sampler(SamplingParams(), seed_sequence(i, 0))
    return EngineSequence(i, GenerationRequest(tuple(prompt), max_tokens), sampler)


class FakeDecoder:
    """Decoder whose tokens are bytes and whose KV cache is a list of cells for each sequence.

    Args:
        reply: returns the next token after a history.
        n_ctx: maximum number of tokens of a sequence.
        n_cells: cells of the whole cache. If equal to `n_ctx`, the sequences share a unified cache, in which copies
            take no cells.
        gate: if given, each `decode` acquires one permit, so that a test controls when a token is computed.
        can_cut: False to remove only whole sequences, like a recurrent model.
        can_move: whether tokens can be moved to other positions.
        tunings: what `tune` yields.
        names: names of the special tokens from id 257 on.
        fail: returns the error that `decode` raises, or None.
        row: returns the logits after a history, instead of `reply`.
    """

    name = "fake"
    identity = "fake"

    def __init__(
        self,
        reply: Reply = letters,
        *,
        n_ctx: int = 256,
        n_cells: int | None = None,
        n_batch: int = 16,
        n_seq: int = 1,
        gate: threading.Semaphore | None = None,
        can_cut: bool = True,
        can_move: bool = False,
        tunings: Sequence[bool] = (),
        fim: FimLayouts | None = FIM_LAYOUTS,
        names: Iterable[str] = FIM_NAMES,
        fail: Callable[[Sequence[BatchItem]], TurboPilotError | None] = lambda _: None,
        row: Callable[[Sequence[int]], Logits] | None = None,
    ) -> None:
        self.n_ctx, self.n_batch, self.n_seq, self.n_vocab = n_ctx, n_batch, n_seq, N_VOCAB
        self.n_cells = n_cells or n_ctx
        self.n_outputs = min(n_batch, n_seq + 16)
        self.can_cut, self.can_move = can_cut, can_move
        self.n_moves = 0
        self._moved: set[int] = set()  # their keys are rotated by the next computation
        self.tunings = tunings
        self.can_tune = bool(tunings)
        self.fim = fim
        self.names = {name: EOG + 1 + i for i, name in enumerate(names)}
        self.start_token = EOG
        self.chat_template, self.bos, self.eos = "", "", "<end>"
        self.adds_bos = False
        self.adds_space = False
        self.kv: dict[int, list[tuple[int, int]]] = {i: [] for i in range(n_seq)}
        self.batches: list[int] = []
        self.n_rebuilt = 0
        self.adapters: AdapterSet = ()
        self.closed = False
        self._reply, self._gate, self._fail, self._row = reply, gate, fail, row
        self._next_cell = 0

    @property
    def n_used(self) -> int:
        """Number of used cells; shared ones count once."""
        return len({cell for cells in self.kv.values() for cell, _ in cells})

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        if parse_special:
            for name, token in self.names.items():
                before, found, after = text.partition(name)
                if found:
                    rest = self.tokenize(after, parse_special=True)
                    return [*self.tokenize(before, parse_special=True), token, *rest]
        return list((b" " if self.adds_space else b"") + text.encode())

    def tune(self) -> Iterator[bool]:
        self.can_tune = False
        yield from self.tunings

    def warm_up(self) -> None:
        assert not any(self.kv.values())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < EOG else b""

    def named_piece(self, token: int) -> bytes:
        names = {EOG: self.eos, **{token: name for name, token in FIM_NAMES.items()}}
        return names[token].encode() if token in names else self.piece(token)

    def is_eog(self, token: int) -> bool:
        return token == EOG

    def use_adapters(self, adapters: AdapterSet) -> None:
        self.adapters = adapters

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        assert not self.closed
        assert 1 <= len(batch) <= self.n_batch
        if self._gate:
            assert self._gate.acquire(timeout=60)
        if error := self._fail(batch):
            raise error
        self.batches.append(len(batch))
        self._moved.clear()
        rows = []
        for item in batch:
            cells = self.kv[item.seq]
            assert item.pos == len(cells), "a position was skipped or computed twice"
            self._next_cell += 1
            cells.append((self._next_cell, item.token))
            assert len(cells) <= self.n_ctx
            if item.want_logits:
                history = [token for _, token in cells]
                rows.append(self._row(history) if self._row else certain(self._reply(history)))
        assert len(rows) <= self.n_outputs
        assert self.n_used <= self.n_cells
        found = np.array(rows, dtype=np.float32).reshape(-1, N_VOCAB)
        found.flags.writeable = False
        return found

    def remove(self, seq: int, start: int) -> bool:
        cells = self.kv[seq]
        if 0 < start < len(cells) and not self.can_cut:
            return False
        del cells[start:]
        return True

    def move(self, seq: int, pieces: Sequence[tuple[int, int]]) -> None:
        assert self.can_move
        cells = self.kv[seq]
        used = [i for start, n in pieces for i in range(start, start + n)]
        assert len(set(used)) == len(used)
        assert max(used) < len(cells)
        others = {cell for i, other in self.kv.items() if i != seq for cell, _ in other}
        assert not others & {cell for cell, _ in cells}, "moved shared cells"
        self.kv[seq] = [cells[i] for i in used]
        self.n_moves += 1
        self._moved.add(seq)

    def copy(self, source: int, target: int, n: int) -> bool:
        assert not self.kv[target], "copied onto a sequence that is not empty"
        assert source not in self._moved, "copied before the keys were rotated"
        if n < len(self.kv[source]) and not self.can_cut:
            return False
        if self.n_cells == self.n_ctx:  # shared
            self.kv[target] = self.kv[source][:n]
        else:
            assert self.restore(target, self.save(source))
            del self.kv[target][n:]
        return True

    def save(self, seq: int) -> bytes:
        assert seq not in self._moved, "saved before the keys were rotated"
        return repr([token for _, token in self.kv[seq]]).encode()

    def restore(self, seq: int, state: bytes) -> bool:
        assert not self.kv[seq], "restored onto a sequence that is not empty"
        for token in ast.literal_eval(state.decode()):
            self._next_cell += 1
            self.kv[seq].append((self._next_cell, token))
        assert self.n_used <= self.n_cells
        return True

    def rebuild(self) -> None:
        self.n_rebuilt += 1
        self.kv = {i: [] for i in range(self.n_seq)}

    def close(self) -> None:
        self.closed = True

    def let(self, n: int = 1) -> None:
        """Let `n` calls of `decode` pass the gate."""
        if self._gate:
            self._gate.release(n)

    def open_gate(self) -> None:
        """Let all further calls of `decode` pass the gate."""
        self.let(10_000)


class TalkingDecoder(FakeDecoder):
    """Fake decoder with a chat template."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"n_seq": 4, "n_batch": 64, **more})
        self.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}?"
