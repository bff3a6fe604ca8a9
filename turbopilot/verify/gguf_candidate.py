"""A GGUF file run by llama.cpp on the CPU. The only importer of llama_cpp in verify.

Set up so that the weights' error is all that is measured: the KV cache is F32 and flash attention, which
keeps its accumulators in F16, is off.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from turbopilot.base.errors import CorruptModel, InvalidInput, TurboPilotError
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.text_normalizer import text_normalizer
from turbopilot.verify.source import Logits, Window

_BATCH = 256  # tokens decoded at once: bounds llama.cpp's own logits buffer to 256·V floats
_GGML_TYPE_F32 = 0
_LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h


class GgufCandidate:
    """A GGUF file as a `LogitsSource`. Use as a context manager, or `close()` it.

    Args:
        path: the file.
        n_threads: threads of llama.cpp; half of the cores where not given.

    Raises:
        InvalidInput: no such file.
        CorruptModel: it is not a GGUF, has no tokenizer, or llama.cpp refuses it (in its words).
    """

    def __init__(self, path: Path, *, n_threads: int | None = None) -> None:
        # llama.cpp aborts the process on some malformed files; the header is checked before it sees one.
        self.header = read_gguf(path)
        check_model(self.header)
        self._model: Any = None
        self._context: Any = None
        self._n_slots = 0
        self.name = str(path)
        self._n_threads = n_threads or _default_threads()
        self._lib = _llama_cpp()
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        # A NaN among quantized weights can vanish in the rounding of activations: look at the weights.
        params.check_tensors = True
        with _words(self._lib) as words:
            self._model = self._lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise CorruptModel(
                f"{path}: llama.cpp cannot load it: {'; '.join(words) or 'it does not say why'}",
                hint="convert it again, or update llama-cpp-python where the file is newer",
            )
        self._normalized = text_normalizer(self.header.metadata)
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self.n_ctx = int(self._lib.llama_model_n_ctx_train(self._model))
        self.versions = {"llama-cpp-python": str(self._lib.__version__)}

    def tokenize(self, text: str) -> list[int]:
        """See `LogitsSource`."""
        data = self._normalized(text).encode("utf-8")
        room = len(data) + 16  # a token is at least one byte of text
        buffer = (self._lib.llama_token * room)()
        n = int(self._lib.llama_tokenize(self._vocab, data, len(data), buffer, room, False, True))
        if n < 0:
            raise TurboPilotError(
                f"{self.name}: llama.cpp cannot tokenize a text of {len(data):,} bytes"
            )
        return list(buffer[:n])

    def text(self, ids: Sequence[int]) -> str:
        """See `LogitsSource`."""
        pieces = []
        buffer = ctypes.create_string_buffer(4096)
        for i in ids:
            n = int(self._lib.llama_token_to_piece(self._vocab, i, buffer, len(buffer), 0, True))
            pieces.append(buffer.raw[: max(0, n)])
        return b"".join(pieces).decode("utf-8", errors="replace")

    def logits(self, window: Window) -> Iterator[Logits]:
        """See `LogitsSource`."""
        self._prepare(len(window.ids))
        batch = self._lib.llama_batch_init(_BATCH, 0, 1)
        try:
            read = 0
            for block in window.blocks(self.n_vocab):
                out = np.empty((len(block), self.n_vocab), np.float32)
                filled = 0
                for start in range(read, block[-1] + 1, _BATCH):
                    stop = min(start + _BATCH, block[-1] + 1)
                    filled += self._decode(
                        batch, window.ids, range(start, stop), block, out[filled:]
                    )
                read = block[-1] + 1
                yield out
        finally:
            self._lib.llama_batch_free(batch)

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n tokens after the ids, always the first choice."""
        self._prepare(len(ids) + n)
        written = list(ids)
        out = np.empty((1, self.n_vocab), np.float32)
        batch = self._lib.llama_batch_init(_BATCH, 0, 1)
        try:
            read = 0
            while len(written) < len(ids) + n:
                for start in range(read, len(written), _BATCH):
                    block = range(start, min(start + _BATCH, len(written)))
                    self._decode(batch, written, block, range(len(written) - 1, len(written)), out)
                read = len(written)
                written.append(int(out[0].argmax()))
        finally:
            self._lib.llama_batch_free(batch)
        return written[len(ids) :]

    def _decode(
        self, batch: Any, ids: Sequence[int], positions: range, measured: range, out: Logits
    ) -> int:
        """Read some tokens; their logits, where they are measured, into the first rows of `out`. How many."""
        batch.n_tokens = len(positions)
        n = 0
        for i, position in enumerate(positions):
            batch.token[i] = ids[position]
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = position in measured
            n += position in measured
        with _words(self._lib) as words:
            code = int(self._lib.llama_decode(self._context, batch))
        if code:
            raise TurboPilotError(
                f"{self.name}: llama_decode failed with code {code}: {'; '.join(words)}"
            )
        if n:
            logits = self._lib.llama_get_logits(self._context)
            out[:n] = np.ctypeslib.as_array(logits, (n, self.n_vocab))
        return n

    def _prepare(self, n_tokens: int) -> None:
        """An empty context with room for so many tokens; a larger one replaces a smaller."""
        if self._context and n_tokens <= self._n_slots:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
            return
        self._free_context()
        params = self._lib.llama_context_default_params()
        params.n_ctx = max(n_tokens, _BATCH)
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = self._n_threads
        params.type_k = params.type_v = _GGML_TYPE_F32
        params.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.offload_kqv = params.op_offload = False  # the CPU, also where a GPU is at hand
        with _words(self._lib) as words:
            self._context = self._lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise CorruptModel(
                f"{self.name}: llama.cpp cannot run it: {'; '.join(words) or 'out of memory?'}"
            )
        self._n_slots = int(params.n_ctx)

    def close(self) -> None:
        """Free the model. Done twice does nothing."""
        self._free_context()
        if self._model:
            with _words(self._lib):
                self._lib.llama_model_free(self._model)
            self._model = None

    def _free_context(self) -> None:
        if self._context:
            with _words(self._lib):
                self._lib.llama_free(self._context)
            self._context = None

    def __enter__(self) -> GgufCandidate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def _llama_cpp() -> Any:
    try:
        import llama_cpp
    except (ImportError, RuntimeError, OSError) as e:
        raise InvalidInput(
            f"llama.cpp cannot be loaded: {e}",
            hint="reinstall it: pip install --force-reinstall llama-cpp-python",
        ) from e
    llama_cpp.llama_backend_init()
    return llama_cpp


@contextmanager
def _words(lib: Any) -> Iterator[list[str]]:
    """Collect what llama.cpp says of errors meanwhile, instead of letting it write to stderr."""
    said: list[str] = []

    def hear(level: int, text: bytes, _data: object) -> None:
        if level == _LOG_ERROR and text.strip():
            said.append(text.decode("utf-8", errors="replace").strip())

    # `callback` must outlive its use by C: a collected one crashes the process. It lives until the
    # former one is back.
    callback = lib.llama_log_callback(hear)
    former, data = lib.llama_log_callback(), ctypes.c_void_p()
    lib.llama_log_get(ctypes.byref(former), ctypes.byref(data))
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    try:
        yield said
    finally:
        lib.llama_log_set(former, data)


def _default_threads() -> int:
    """Half of the cores that this process may use.

    llama.cpp's threads spin while they wait for one another, so that a single core that is busy with
    something else stalls them all: two threads on two busy cores took eight times as long as one.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // 2)
