"""llama.cpp as a Decoder: the only file that imports llama_cpp. Knows nothing of HTTP or requests.

A GGUF's header is checked before llama.cpp sees it, since some malformed ones make it abort the process.
Its codes become exceptions here, and nothing that is not a Python or numpy value leaves this file.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml

from serve.decoder import BatchItem, Constraint, FimTokens, Logits
from serve.llama_grammar import make_constraint
from serve.llama_log import LogCapture
from serve.model_facts import Layout, choose_context, choose_layout, describe, model_name
from serve.report import LoadReport
from serve.settings import ModelOptions, find_cache_type
from turbopilot.errors import (
    BadBatch,
    CorruptModel,
    DecodeAborted,
    DecoderFailed,
    NoKvSlot,
    ServeError,
    TurboPilotError,
)
from turbopilot.ggml_devices import gpu_devices
from turbopilot.ggml_types import GGML_TYPES
from turbopilot.gguf_check import check_model
from turbopilot.gguf_file import GgufHeader, read_gguf
from turbopilot.hardware import usable_cores
from turbopilot.text_normalizer import text_normalizer

ALL_LAYERS: Final = 999  # llama.cpp caps it at what there is
# llama_decode's return values, in llama.h; all others are fatal.
_CODES: Final[dict[int, type[TurboPilotError]]] = {1: NoKvSlot, 2: DecodeAborted, -1: BadBatch}
# Guesses of what follows are verified by choosing after each: so many rows of logits beside one a sequence.
GUESSES: Final = 16
_PLAIN: Final = {"f32", "f16", "bf16"}
_TYPE_NUMBER: Final = {name.lower(): number for number, (name, _, _) in GGML_TYPES.items()}

_capture = LogCapture()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """llama.cpp keeps a pointer to this: as a module's global it is never collected."""
    _capture.write(level, text)


def load(path: Path, options: ModelOptions) -> tuple[LlamaDecoder, LoadReport]:
    """Load a GGUF, and say what was really set up.

    Raises:
        InvalidInput: the file cannot be read, or an option does not fit it.
        CorruptModel: it is damaged, or llama.cpp refuses it; with llama.cpp's own reason.
        ServeError: llama.cpp loads it but cannot run it as asked, as where memory is short.
    """
    find_cache_type(options.cache_type)
    header = read_gguf(path)
    check_model(header)
    n_ctx = choose_context(header, options.ctx)
    layout = choose_layout(header, n_ctx, options.n_seq, options.cache_type)

    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    _capture.clear()
    devices = tuple(str(d) for d in gpu_devices(libggml))
    n_gpu_layers = options.n_gpu_layers
    if n_gpu_layers is None:
        n_gpu_layers = ALL_LAYERS if devices else 0

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise CorruptModel(
            f"{path}: llama.cpp cannot load it: {_capture.last_errors() or 'no reason given'}",
            hint="convert or download it again; if it is new, update llama-cpp-python",
        )
    try:
        if llama_cpp.llama_model_has_encoder(model) or not llama_cpp.llama_model_has_decoder(model):
            raise ServeError(f"{path}: {header.architecture} is no model that completes text")
        make = partial(_make_context, model, path, n_ctx, layout, options)
        context = make()
    except BaseException:
        llama_cpp.llama_model_free(model)
        raise

    # Without a device llama.cpp still says "offloaded": into nowhere.
    n_offloaded, n_layers = _capture.offloaded() or (0, 0)
    decoder = LlamaDecoder(model, context, make, header, n_ctx, layout, options)
    report = LoadReport(
        name=decoder.name,
        n_ctx=n_ctx,
        has_fim=decoder.fim is not None,
        n_threads=options.threads or usable_cores(),
        n_parallel=layout.n_seq,
        is_split=layout.is_split,
        cache_type=options.cache_type,
        kv_bytes=_capture.kv_bytes(),
        n_offloaded=n_offloaded if devices else 0,
        n_layers=n_layers or int(llama_cpp.llama_model_n_layer(model)) + 1,
        devices=devices,
        description=describe(header),
    )
    decoder.warm_up()
    return decoder, report


def _make_context(model: Any, path: Path, n_ctx: int, layout: Layout, options: ModelOptions) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = layout.n_cells(n_ctx)
    params.n_batch = options.n_batch
    params.n_ubatch = min(options.n_batch, 512)  # llama.cpp's default: larger ones only cost memory
    params.n_seq_max = layout.n_seq
    # By itself llama.cpp reserves logits for a whole batch.
    params.n_outputs_max = min(options.n_batch, layout.n_seq + GUESSES)
    params.kv_unified = not layout.is_split
    params.n_threads = params.n_threads_batch = options.threads or usable_cores()
    params.type_k = params.type_v = _TYPE_NUMBER[options.cache_type]
    # Auto: llama.cpp knows where it is faster. Values in blocks can be read by no other kernel.
    params.flash_attn_type = 1 if options.cache_type not in _PLAIN else -1
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        what = f"{path}: no context of {n_ctx} tokens"
        reason = _capture.last_errors() or "no reason given"
        if options.cache_type not in _PLAIN:
            raise ServeError(
                f"{what} with a {options.cache_type} cache: {reason}",
                hint="not every model and device can have a quantized cache: try --cache-type f16",
            )
        raise ServeError(
            f"{what}: {reason}",
            hint="memory may be short: give a smaller --ctx, a smaller --cache-type, or fewer --n-gpu-layers",
        )
    return context


class LlamaDecoder:
    """A loaded model with its KV cache. Made by `load`. See `serve.decoder.Decoder` for the contract."""

    def __init__(
        self,
        model: Any,
        context: Any,
        make_context: Callable[[], Any],
        header: GgufHeader,
        n_ctx: int,
        layout: Layout,
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
        # GPT-2's family has no begin-of-sequence token: documents begin after an end-of-text.
        candidates = (
            llama_cpp.llama_vocab_bos(self._vocab),
            llama_cpp.llama_vocab_eos(self._vocab),
        )
        self.start_token = next((int(t) for t in candidates if t >= 0), 0)
        # A new FIM block is a new document: whoever generates one has nothing more to say about this.
        self._framing = {self.fim.prefix, self.fim.suffix, self.fim.middle} if self.fim else set()
        self._batch = _Batch(self.n_batch)
        self._piece_buffer = ctypes.create_string_buffer(256)

    def _fim_tokens(self) -> FimTokens | None:
        ids = [
            int(get(self._vocab))
            for get in (
                llama_cpp.llama_vocab_fim_pre,
                llama_cpp.llama_vocab_fim_suf,
                llama_cpp.llama_vocab_fim_mid,
            )
        ]
        return FimTokens(*ids) if all(0 <= i < self.n_vocab for i in ids) else None

    def warm_up(self) -> None:
        """Compute one token, so that the first request finds the weights in memory and the graph built."""
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
        if token in self._framing:
            return b""
        n = llama_cpp.llama_token_to_piece(
            self._vocab, token, self._piece_buffer, len(self._piece_buffer), 0, False
        )
        if n < 0:  # longer than the buffer: remember the larger one
            self._piece_buffer = ctypes.create_string_buffer(-n)
            return self.piece(token)
        return self._piece_buffer.raw[:n]

    def is_eog(self, token: int) -> bool:
        """Whether the token ends generation."""
        return token in self._framing or bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def constraint(self, grammar: str) -> Constraint:
        """A grammar over this vocabulary; see `Decoder`."""
        return make_constraint(self._vocab, grammar)

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        """One llama_decode; see `Decoder`. The rows are llama.cpp's own memory."""
        if len(batch) > self.n_batch:
            raise ValueError(f"{len(batch)} tokens in a batch of {self.n_batch}")
        n_wanted = sum(item.want_logits for item in batch)
        if n_wanted > self.n_outputs:  # llama.cpp would abort the process
            raise ValueError(f"{n_wanted} rows of logits of at most {self.n_outputs}")
        code = llama_cpp.llama_decode(self._context, self._batch.fill(batch))
        if code:
            reason = _capture.last_errors(1) or f"llama_decode returned {code}"
            raise _CODES.get(code, DecoderFailed)(
                f"llama.cpp could not compute the batch: {reason}"
            )
        if not n_wanted:
            return np.empty((0, self.n_vocab), dtype=np.float32)
        # In the batch's order, however llama.cpp computed it.
        rows = np.ctypeslib.as_array(
            llama_cpp.llama_get_logits(self._context), (n_wanted, self.n_vocab)
        )
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
        self._context = self._make_context()
        self._memory = llama_cpp.llama_get_memory(self._context)

    def close(self) -> None:
        """Free context and model; once."""
        if self._model:
            if self._context:
                llama_cpp.llama_free(self._context)
            llama_cpp.llama_model_free(self._model)
            self._context = self._model = None


class _Batch:
    """A llama_batch over numpy's memory: a loop over ctypes costs more than all else that Python does in a step."""

    def __init__(self, n: int) -> None:
        self._token = np.zeros(n, dtype=np.int32)
        self._pos = np.zeros(n, dtype=np.int32)
        self._seq = np.zeros(n, dtype=np.int32)
        self._wants = np.zeros(n, dtype=np.int8)
        self._one = np.ones(n, dtype=np.int32)
        # llama.cpp reads each token's sequences through a pointer of its own; each has one.
        first = self._seq.ctypes.data
        ids = ctypes.POINTER(ctypes.c_int32)
        self._seq_pointers = (ids * n)(*(ctypes.cast(first + 4 * i, ids) for i in range(n)))
        self._batch = llama_cpp.llama_batch(
            token=self._token.ctypes.data_as(ids),
            pos=self._pos.ctypes.data_as(ids),
            n_seq_id=self._one.ctypes.data_as(ids),
            seq_id=self._seq_pointers,
            logits=self._wants.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, items: Sequence[BatchItem]) -> Any:
        """The llama_batch of these items; the next call overwrites it."""
        n = len(items)
        self._batch.n_tokens = n
        self._token[:n] = [i.token for i in items]
        self._pos[:n] = [i.pos for i in items]
        self._seq[:n] = [i.seq for i in items]
        self._wants[:n] = [i.want_logits for i in items]
        return self._batch
