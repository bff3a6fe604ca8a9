"""A model in memory whose weights can be changed, and what its predictions become. Takes llama_cpp; started by none.

The weights are loaded as copies (no mapped file, no rearranged ones), and the graph's own pointers to them are kept
from one evaluation with llama.cpp's callback, so that a matrix is changed where it lies, on a GPU too, without a
file for every experiment.

Letters: T tokens of a window, P measured positions of it, V vocabulary.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from quantize.imatrix import ggml_tensor
from quantize.imatrix.ggml_tensor import Ggml
from turbopilot.base.errors import QuantizationError
from turbopilot.base.kl_divergence import Logits, kl_divergence

WINDOW: Final = 256
"""Tokens of a window: attention's part is there, and each pass is short."""
SKIPPED: Final = 64
"""Positions at its beginning that are not measured: with so little before them every model guesses."""
_BLOCK: Final = 64  # rows of logits that are compared at once
_WEIGHTS_IN: Final = (
    "MUL_MAT",
    "MUL_MAT_ID",
    "GET_ROWS",
)  # operations whose first source is a weight


class ProbedModel:
    """A loaded model.

    Args:
        lib: llama_cpp.
        ggml_lib: a ctypes library with ggml's base functions.
        path: the GGUF, of floats.
        n_threads: that compute.
        n_gpu_layers: layers on the GPU; None is all where there is one.

    Raises:
        QuantizationError: llama.cpp cannot load or run it.
    """

    def __init__(
        self, lib: Any, ggml_lib: Any, path: Path, n_threads: int, n_gpu_layers: int | None
    ) -> None:
        self._lib, self._ggml, self._path = lib, Ggml(ggml_lib), path
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        self._set = ggml_lib.ggml_backend_tensor_set
        self._set.argtypes, self._set.restype = [pointer, pointer, size, size], None
        params = lib.llama_model_default_params()
        if n_gpu_layers is not None:
            params.n_gpu_layers = n_gpu_layers
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        params.use_extra_bufts = False
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise QuantizationError(f"{path}: llama.cpp cannot load it", hint="is memory short?")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self._at: dict[str, set[int]] = {}
        self._looking = True
        # Both live as long as the context, which keeps only pointers.
        self._callback = lib.ggml_backend_sched_eval_callback(self._on_node)
        self._context = self._make_context(n_threads)
        self._batch = lib.llama_batch_init(WINDOW, 0, 1)

    def _make_context(self, n_threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
        params.n_threads = params.n_threads_batch = n_threads
        params.cb_eval = self._callback
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise QuantizationError(
                f"{self._path}: llama.cpp cannot run it", hint="is memory short?"
            )
        return context

    def _on_node(self, address: int, ask: bool, _data: Any) -> bool:
        """Note where the weights of this node lie. Nothing is asked for, so that the graph runs as it is."""
        if self._looking:
            node = ggml_tensor.at(address)
            if self._ggml.op(node) in _WEIGHTS_IN and node.src[0]:
                weight = ggml_tensor.at(node.src[0])
                self._at.setdefault(weight.name.decode("utf-8", "replace"), set()).add(node.src[0])
        return not ask

    def windows(self, text: str, most: int) -> list[list[int]]:
        """The text's tokens in windows of T.

        Args:
            text: to be read.
            most: windows at most.
        """
        data = text.encode("utf-8", "replace")
        ids = (self._lib.llama_token * (len(data) + 16))()
        n = int(self._lib.llama_tokenize(self._vocab, data, len(data), ids, len(ids), False, False))
        begin = int(self._lib.llama_vocab_bos(self._vocab))
        found = [list(ids[i : i + WINDOW]) for i in range(0, n - WINDOW + 1, WINDOW)]
        # Spread over the text, so that few windows still see many languages.
        step = max(1, len(found) // max(1, most))
        found = found[::step][:most]
        if begin >= 0 and self._lib.llama_vocab_get_add_bos(self._vocab):
            for window in found:
                window[0] = begin
        return found

    def logits(self, window: Sequence[int]) -> Logits:
        """(P, V): what follows each position from SKIPPED on. Valid until the next call."""
        b = self._batch
        b.n_tokens = len(window)
        for i, token in enumerate(window):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, i, 1, i >= SKIPPED
            b.seq_id[i][0] = 0
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        if code := int(self._lib.llama_decode(self._context, b)):
            raise QuantizationError(f"{self._path}: llama_decode failed with code {code}")
        if self._looking:
            self._looking = False
            self._ggml.check_layout(next(iter(next(iter(self._at.values())))))
        shape = (len(window) - SKIPPED, self.n_vocab)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), shape)

    def divergence(self, windows: Sequence[Sequence[int]], reference: Sequence[Logits]) -> float:
        """Mean KL(reference ‖ model as it is now), in nats.

        Args:
            windows: of `windows`.
            reference: their logits, (P, V) each, of the model as it was.
        """
        total, n = 0.0, 0
        for window, before in zip(windows, reference, strict=True):
            now = self.logits(window)
            for i in range(0, len(before), _BLOCK):
                p, q = before[i : i + _BLOCK], now[i : i + _BLOCK]
                total += float(kl_divergence(p, q, q - p)[0].sum())
                n += len(p)
        return total / n

    def write(self, name: str, values: npt.NDArray[Any]) -> None:
        """Give a tensor other weights.

        Args:
            name: the tensor's.
            values: all of it, in the type and layout of the file.

        Raises:
            QuantizationError: it is not in the graph, or of another size.
        """
        if not self._at.get(name):
            raise QuantizationError(f"{self._path}: {name} is not in llama.cpp's graph")
        data = np.ascontiguousarray(values)
        for address in self._at[name]:  # a shared embedding may lie in two places
            tensor = ggml_tensor.at(address)
            have = int(tensor.nb[3]) * int(tensor.ne[3])
            if have != data.nbytes:
                raise QuantizationError(
                    f"{self._path}: {name} has {have} bytes in memory and {data.nbytes} in the file"
                )
            self._set(address, data.ctypes.data, 0, data.nbytes)
