"""A model in llama.cpp, one call a method. Knows nothing of HTTP or requests.

llama.cpp's codes become exceptions here, and its pointers never leave the package.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import llama_cpp
import numpy as np

from serve.decoder import BatchItem, Constraint, FimTokens, Logits
from serve.llama.batch import Batch
from serve.llama.facts import chat_template, model_name
from serve.llama.grammar import TokenIds, make_constraint, unwritable_tokens
from serve.llama.log import capture
from serve.settings import ModelOptions
from turbopilot.base.errors import (
    BadBatch,
    DecodeAborted,
    DecoderFailed,
    NoKvSlot,
    TurboPilotError,
)
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.text_normalizer import text_normalizer

# llama_decode's return values, in llama.h; all others are fatal.
_CODES: Final[dict[int, type[TurboPilotError]]] = {1: NoKvSlot, 2: DecodeAborted, -1: BadBatch}
# Guesses of what follows are verified by choosing after each: so many rows of logits beside one a sequence.
GUESSES: Final = 16


class LlamaDecoder:
    """A loaded model with its KV cache. Made by `load`. See `serve.decoder.Decoder` for the contract."""

    def __init__(
        self,
        model: Any,
        context: Any,
        make_context: Callable[[], Any],
        header: GgufHeader,
        n_ctx: int,
        layout: KvLayout,
        options: ModelOptions,
    ) -> None:
        self._model, self._context, self._make_context = model, context, make_context
        self._is_split = layout.is_split
        self._normalized = text_normalizer(header.metadata)
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._memory = llama_cpp.llama_get_memory(context)
        self.name = model_name(header)
        self.n_ctx = n_ctx
        self.n_batch = min(options.n_batch, int(llama_cpp.llama_n_batch(context)))
        self.n_seq = layout.n_seq
        self.n_cells = n_ctx * layout.n_seq if layout.is_split else n_ctx
        self.n_outputs = min(self.n_batch, layout.n_seq + GUESSES)
        self.can_cut = not (
            llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)
        )
        stat = header.path.stat()
        # What a state depends on; the file's time stands for its weights, whose digest would take minutes.
        self.identity = (
            f"{header.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {options.cache_type} "
            f"{llama_cpp.__version__}"
        )
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.fim = self._fim_tokens()
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self.chat_template = chat_template(header, options.chat_template)
        self.adds_space = (
            int(llama_cpp.llama_vocab_type(self._vocab)) == llama_cpp.LLAMA_VOCAB_TYPE_SPM
            and header.metadata.get("tokenizer.ggml.add_space_prefix") is not False
        )
        self.bos = self._token_text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos = self._token_text(llama_cpp.llama_vocab_eos(self._vocab))
        # GPT-2's family has no begin-of-sequence token: documents begin after an end-of-text.
        candidates = (
            llama_cpp.llama_vocab_bos(self._vocab),
            llama_cpp.llama_vocab_eos(self._vocab),
        )
        self.start_token = next((int(t) for t in candidates if t >= 0), 0)
        # A new FIM block is a new document: whoever generates one has nothing more to say about this.
        self._framing = {self.fim.prefix, self.fim.suffix, self.fim.middle} if self.fim else set()
        self._batch = Batch(self.n_batch)
        # Asked for every token: what was told once is kept.
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        # Views of llama.cpp's logits, by address and number of rows.
        self._rows: dict[tuple[int, int], Logits] = {}

    def _fim_tokens(self) -> FimTokens | None:
        prefix, suffix, middle, repository, file = (
            token if 0 <= (token := int(get(self._vocab))) < self.n_vocab else None
            for get in (
                llama_cpp.llama_vocab_fim_pre,
                llama_cpp.llama_vocab_fim_suf,
                llama_cpp.llama_vocab_fim_mid,
                llama_cpp.llama_vocab_fim_rep,
                llama_cpp.llama_vocab_fim_sep,
            )
        )
        if prefix is None or suffix is None or middle is None:
            return None
        return FimTokens(prefix, suffix, middle, repository, file)

    def _token_text(self, token: int) -> str:
        if not 0 <= token < self.n_vocab:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    def warm_up(self) -> None:
        """Compute one token: the weights come into memory, and the graph is built."""
        self.decode([BatchItem(self.start_token, 0, 0, want_logits=True)])
        self.remove(0, 0)

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Token ids of `text`; see `Tokenizer`."""
        data = self._normalized(text).encode()
        size = len(data) + 2  # a token has a byte at least; some tokenizers put a space in front
        while True:
            ids = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), ids, size, False, parse_special
            )
            if n >= 0:
                return list(ids[:n])
            if -n <= size:
                raise DecoderFailed("llama.cpp cannot tokenize the prompt")
            size = -n

    def piece(self, token: int) -> bytes:
        """The bytes of a token; nothing for a special one."""
        found = self._pieces.get(token)
        if found is None:
            found = self._pieces[token] = self._read_piece(token)
        return found

    def _read_piece(self, token: int) -> bytes:
        if token in self._framing:
            return b""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def is_eog(self, token: int) -> bool:
        """Whether the token ends generation."""
        found = self._ends.get(token)
        if found is None:
            is_end = token in self._framing or llama_cpp.llama_vocab_is_eog(self._vocab, token)
            found = self._ends[token] = bool(is_end)
        return found

    def constraint(self, grammar: str) -> Constraint:
        """A grammar over this vocabulary; see `Decoder`."""
        return make_constraint(self._vocab, grammar, unwritable=self._unwritable)

    @cached_property
    def _unwritable(self) -> TokenIds:
        return unwritable_tokens(self._vocab)

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """One llama_decode; see `Decoder`. The rows are llama.cpp's own memory."""
        if len(batch) > self.n_batch:
            raise ValueError(f"{len(batch)} tokens in a batch of {self.n_batch}")
        n_wanted = sum(item.want_logits for item in batch)
        if n_wanted > self.n_outputs:  # llama.cpp would abort the process
            raise ValueError(f"{n_wanted} rows of logits of at most {self.n_outputs}")
        code = llama_cpp.llama_decode(self._context, self._batch.fill(batch))
        if code:
            reason = capture.last_errors(1) or f"llama_decode returned {code}"
            raise _CODES.get(code, DecoderFailed)(
                f"llama.cpp could not compute the batch: {reason}"
            )
        if not n_wanted:
            return np.empty((0, self.n_vocab), dtype=np.float32)
        # In the batch's order, however llama.cpp computed it.
        pointer = llama_cpp.llama_get_logits(self._context)
        key = ctypes.addressof(pointer.contents), n_wanted
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = np.ctypeslib.as_array(pointer, (n_wanted, self.n_vocab))
            rows.flags.writeable = False
        return rows

    def remove(self, seq: int, start: int) -> bool:
        """Forget positions from `start` on."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq, start, -1))

    def copy(self, source: int, target: int, n: int) -> bool:
        """Share the cells, or copy them where each sequence has its own."""
        if not self._is_split:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n)
            return True
        return self.restore(target, self.save(source)) and self.remove(target, n)

    def save(self, seq: int) -> bytes:
        """llama.cpp's state of one sequence."""
        size = llama_cpp.llama_state_seq_get_size(self._context, seq)
        state = np.empty(size, dtype=np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        n = llama_cpp.llama_state_seq_get_data(self._context, pointer, size, seq)
        return state[:n].tobytes()

    def restore(self, seq: int, state: bytes) -> bool:
        """Read back what `save` gave."""
        pointer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        n = llama_cpp.llama_state_seq_set_data(self._context, pointer, len(state), seq)
        return int(n) == len(state)

    def rebuild(self) -> None:
        """A new context for the same model."""
        llama_cpp.llama_free(self._context)
        self._context = None
        self._rows.clear()
        self._context = self._make_context()
        self._memory = llama_cpp.llama_get_memory(self._context)

    def close(self) -> None:
        """Free context and model; once."""
        if self._model:
            if self._context:
                llama_cpp.llama_free(self._context)
            llama_cpp.llama_model_free(self._model)
            self._context = self._model = None
