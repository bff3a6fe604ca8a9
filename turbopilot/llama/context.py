"""Context of a model in llama.cpp, with its KV cache."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import (
    BadBatch,
    DecodeAborted,
    DecoderFailed,
    MemoryShort,
    NoKvSlot,
    ServeError,
    TurboPilotError,
)
from turbopilot.base.machine import usable_cores
from turbopilot.formats.ggml_types import CACHE_TYPES
from turbopilot.llama.adapter import LlamaAdapter
from turbopilot.llama.batch_item import BatchItem
from turbopilot.llama.flash_attention import AUTO, ON
from turbopilot.llama.footprint import UBATCH
from turbopilot.llama.library import llama_cpp, log
from turbopilot.llama.model import LlamaModel
from turbopilot.llama.token_batch import TokenBatch

Logits: TypeAlias = npt.NDArray[np.float32]
OnNode: TypeAlias = Callable[[int, bool], bool]
# Return values of llama_decode, from llama.h; all others are fatal.
_CODES: Final[dict[int, type[TurboPilotError]]] = {1: NoKvSlot, 2: DecodeAborted, -1: BadBatch}


@dataclass(frozen=True, slots=True)
class ContextParameters:
    """Parameters of a context.

    Attributes:
        n_ctx: cells of the KV cache for all sequences together.
        n_outputs: maximum rows of logits for a batch, for which llama.cpp reserves memory; 0 is one row per token.
        n_threads: None is one per processor core.
        cache_type: KV cache type, in lower case.
        kv_unified: whether all sequences share the cells; otherwise each has an equal part of them.
        offload: whether a GPU computes attention and large batches for layers that are not on it.
        copies_weights: whether it does so for large batches, which needs copies of the weights.
        on_node: called with the address of each node of the graph: first with True, to return whether its result is
            needed, then with False when it is computed. Source: ggml_backend_sched_eval_callback in ggml-backend.h.
    """

    n_ctx: int
    n_batch: int = UBATCH
    n_seq: int = 1
    n_outputs: int = 0
    n_threads: int | None = None
    cache_type: str = "f16"
    flash_attention: int = AUTO
    kv_unified: bool = True
    offload: bool = True
    copies_weights: bool = True
    on_node: OnNode | None = None

    @property
    def n_ubatch(self) -> int:
        """Maximum number of tokens computed at once."""
        return min(self.n_batch, UBATCH)

    @property
    def n_ctx_seq(self) -> int:
        """Maximum number of tokens in one sequence."""
        return self.n_ctx if self.kv_unified else self.n_ctx // self.n_seq


class LlamaContext:
    """Context of a loaded model; close it before the model.

    `n_cells` is the number of cells in the KV cache, which may be more than requested. A call of `decode` accepts at
    most `n_batch` tokens and returns at most `n_outputs` rows of logits.

    Raises:
        MemoryShort: there is no room for it.
        ServeError: llama.cpp cannot create the context.
    """

    def __init__(self, model: LlamaModel, parameters: ContextParameters) -> None:
        self.model, self._parameters = model, parameters
        self._context: Any = None
        self._failure: BaseException | None = None
        if parameters.on_node:  # keep a reference: llama.cpp has only a pointer to the callback
            self._callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)
        # Views of llama.cpp's logits, by address and number of rows.
        self._rows: dict[tuple[int, int], Logits] = {}
        self._make()
        self.n_cells = int(llama_cpp.llama_n_ctx(self._context))
        self.n_batch = min(parameters.n_batch, int(llama_cpp.llama_n_batch(self._context)))
        self.n_outputs = min(parameters.n_outputs or self.n_batch, self.n_batch)
        self._batch = TokenBatch(self.n_batch)

    def _make(self) -> None:
        p = self._parameters
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = p.n_ctx, p.n_batch, p.n_ubatch
        params.n_seq_max, params.n_outputs_max = p.n_seq, p.n_outputs
        params.kv_unified = p.kv_unified
        params.n_threads = params.n_threads_batch = p.n_threads or usable_cores()
        params.type_k = params.type_v = CACHE_TYPES[p.cache_type.upper()]
        params.flash_attn_type = p.flash_attention
        params.offload_kqv, params.op_offload = p.offload, p.offload and p.copies_weights
        if p.on_node:
            params.cb_eval = self._callback
        log.is_out_of_memory = False
        self._context = llama_cpp.llama_init_from_model(self.model.pointer, params)
        if not self._context:
            self.model.check_workers()
            what = f"{self.model.header.path}: cannot create a context of {p.n_ctx_seq:,} tokens"
            hint = "memory may be short: give a smaller --ctx, a smaller --cache-type, or fewer layers with --ngl"
            if p.flash_attention == ON:
                what += f" with flash attention and a {p.cache_type} cache"
                hint = "not every model and device supports this: try --cache-type f16 --flash-attn off"
            kind = MemoryShort if log.is_out_of_memory else ServeError
            raise kind(f"{what}: {log.reason()}", hint=hint)
        self._memory = llama_cpp.llama_get_memory(self._context)

    def _on_node(self, address: int, ask: bool, _data: Any) -> bool:
        """Call `on_node`, and store an exception until llama_decode returns, because ctypes would only print it."""
        if self._failure is not None or self._parameters.on_node is None:
            return False
        try:
            return self._parameters.on_node(address, ask)
        except BaseException as e:
            self._failure = e
            return False

    def set_adapters(self, adapters: Mapping[LlamaAdapter, float]) -> None:
        """Apply adapters of the model, each with its scale, in the next batches, and no others.

        After a change, llama.cpp plans its buffers again in the next `decode`.
        """
        n = len(adapters)
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * n)(*(a.pointer for a in adapters))
        scales = (ctypes.c_float * n)(*adapters.values())
        llama_cpp.llama_set_adapters_lora(self._context, pointers, n, scales)

    def decode(self, items: Sequence[BatchItem]) -> Logits:
        """Decode a batch and add it to the KV cache.

        Returns:
            Logits (rows, n_vocab) with a row for each item that has `want_logits`, in the order of the batch. The
            array is a view, valid until the next call.

        Raises:
            NoKvSlot: the KV cache has no room; its contents are unchanged.
            DecodeAborted: the computation was interrupted; the KV cache of the sequences involved is undefined.
            BadBatch: the batch is invalid; the contents of the KV cache are unchanged.
            DecoderFailed: the computation failed; the whole context is undefined.
            DeviceLost: a worker with a part of the model is gone.
        """
        self._check_size(len(items))
        return self._compute(self._batch.fill(items), sum(item.want_logits for item in items))

    def read(self, ids: Sequence[int], start: int, outputs: range) -> Logits:
        """Decode tokens of sequence 0 from position `start` on, and wait for the result.

        Returns:
            Logits (rows, n_vocab) of the positions in `outputs`; see `decode`.
        """
        self._check_size(len(ids))
        wants = [position in outputs for position in range(start, start + len(ids))]
        logits = self._compute(self._batch.fill_run(ids, start, wants), sum(wants))
        llama_cpp.llama_synchronize(self._context)
        return logits

    def _check_size(self, n: int) -> None:
        if n > self.n_batch:
            raise ValueError(f"{n} tokens exceed the batch size of {self.n_batch}")

    def _compute(self, batch: Any, n_rows: int) -> Logits:
        if n_rows > self.n_outputs:  # llama.cpp would abort the process
            raise ValueError(f"{n_rows} rows of logits exceed the limit of {self.n_outputs}")
        code = llama_cpp.llama_decode(self._context, batch)
        if code or self._failure:
            self.model.check_workers()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if code:
            reason = log.errors(1) or f"llama_decode returned {code}"
            raise _CODES.get(code, DecoderFailed)(
                f"llama.cpp could not compute the batch: {reason}"
            )
        rows = self._logits(n_rows) if n_rows else np.empty((0, self.model.n_vocab), np.float32)
        self.model.check_workers()
        return rows

    def _logits(self, n_rows: int) -> Logits:
        """Wait for the logits of the last batch, and return them, in its order."""
        pointer = llama_cpp.llama_get_logits(self._context)
        key = ctypes.addressof(pointer.contents), n_rows
        rows = self._rows.get(key)
        if rows is None:
            rows = np.ctypeslib.as_array(pointer, (n_rows, self.model.n_vocab))
            rows.flags.writeable = False
            self._rows[key] = rows
        return rows

    def clear(self) -> None:
        """Remove all sequences."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def remove(self, seq: int, start: int) -> bool:
        """Remove the positions of a sequence from `start` on; return False if the model cannot remove a part."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq, start, -1))

    @property
    def can_move(self) -> bool:
        """Whether `move` is possible: llama.cpp can rotate the keys, and the model has no learned position vectors."""
        can_shift = bool(llama_cpp.llama_memory_can_shift(self._memory))
        return can_shift and self.model.can_cut and self.model.rotates

    def move(self, seq: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Keep only pieces of a sequence, one after the other from position 0 on.

        llama.cpp rotates the keys in the next `decode`, those of the whole cache: with 8,192 cells for each of four
        sequences, that takes as long as some 100 tokens of SmolLM2-135M.

        Args:
            seq: a sequence that shares no cells with another one.
            pieces: first position and number of tokens of each piece, in the new order; they do not overlap.
        """
        end = 0
        for start, n in sorted(pieces):
            if start > end:
                llama_cpp.llama_memory_seq_rm(self._memory, seq, end, start)
            end = start + n
        llama_cpp.llama_memory_seq_rm(self._memory, seq, end, -1)
        # First to free positions, as a piece may move to where another one is.
        moved: list[tuple[int, int, int]] = []
        at, free = 0, self._parameters.n_ctx_seq
        for start, n in pieces:
            if start != at:
                llama_cpp.llama_memory_seq_add(self._memory, seq, start, start + n, free)
                moved.append((start + free, n, at))
            at += n
        for start, n, at in moved:
            llama_cpp.llama_memory_seq_add(self._memory, seq, start, start + n, at - start)

    def copy(self, source: int, target: int, n: int) -> bool:
        """Copy the first `n` positions of a sequence to an empty one; return False if the model cannot.

        With a unified KV cache the cells are shared, otherwise they are copied.
        """
        if self._parameters.kv_unified:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n)
            return True
        return self.restore(target, self.save(source)) and self.remove(target, n)

    def save(self, seq: int) -> bytes:
        """Return the state of one sequence, serialized by llama.cpp; raise DeviceLost if a worker is gone."""
        size = llama_cpp.llama_state_seq_get_size(self._context, seq)
        state = np.empty(size, dtype=np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        n = llama_cpp.llama_state_seq_get_data(self._context, pointer, size, seq)
        self.model.check_workers()
        return state[:n].tobytes()

    def restore(self, seq: int, state: bytes) -> bool:
        """Restore a saved state to an empty sequence; return False if there is no room or llama.cpp refuses it."""
        pointer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        n = llama_cpp.llama_state_seq_set_data(self._context, pointer, len(state), seq)
        return int(n) == len(state)

    def rebuild(self) -> None:
        """Replace the context with a new one after a failure."""
        LlamaContext.close(self)  # not the method of a subclass, which also closes the model
        self._make()

    def close(self) -> None:
        """Free the context. A second call does nothing."""
        self._rows.clear()
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
