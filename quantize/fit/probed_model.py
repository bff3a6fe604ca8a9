"""Model whose weights can be changed in memory, and the divergence of its predictions.

Weights are loaded as copies, neither mapped nor repacked. llama.cpp's graph callback reports the pointers to them, so
that a matrix can be changed in place, also on a GPU. P measured positions of a window, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import QuantizationError
from turbopilot.base.kl_divergence import Logits, kl_divergence
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama import ggml_tensor
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.fitting import fitted
from turbopilot.llama.ggml_tensor import Ggml, name_of
from turbopilot.llama.library import ggml
from turbopilot.llama.model import LlamaModel
from turbopilot.llama.placement_wish import PlacementWish

WINDOW: Final = 256
"""Tokens of a window: long enough for attention to matter, short enough for a quick pass."""
SKIPPED: Final = 64
"""Positions at the start of a window that are not measured, because they have too little context."""
_BLOCK: Final = 64  # rows of logits compared at once
_WEIGHTS_IN: Final = (
    "MUL_MAT",
    "MUL_MAT_ID",
    "GET_ROWS",
)  # operations whose first source is a weight


class ProbedModel:
    """Loaded float GGUF, placed as `wish` says."""

    def __init__(self, header: GgufHeader, n_threads: int, wish: PlacementWish) -> None:
        self._ggml, self._path = Ggml(ggml), header.path
        self._addresses: dict[str, set[int]] = {}
        self._looking = True
        need = ContextNeed(WINDOW, n_outputs=WINDOW)
        self._model = LlamaModel(header, fitted(header, need, wish, use_mmap=False, repack=False))
        self.n_vocab = self._model.n_vocab
        # A weight that is copied to a device for each batch has another pointer there, which must not be changed.
        parameters = ContextParameters(
            WINDOW, WINDOW, n_threads=n_threads, copies_weights=False, on_node=self._on_node
        )
        self._context = LlamaContext(self._model, parameters)

    def _on_node(self, address: int, ask: bool) -> bool:
        """Record the address of this node's weight, without requesting its result."""
        if self._looking:
            node = ggml_tensor.at(address)
            if self._ggml.op(node) in _WEIGHTS_IN and node.src[0]:
                name = name_of(ggml_tensor.at(node.src[0]))
                self._addresses.setdefault(name, set()).add(node.src[0])
        return not ask

    def windows(self, text: str, most: int) -> list[list[int]]:
        """Return at most `most` windows of token ids, spread over the text to include many languages."""
        ids = self._model.tokenize(text, parse_special=False)
        found = [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
        step = max(1, len(found) // max(1, most))
        found = found[::step][:most]
        if self._model.first_token is not None:
            for window in found:
                window[0] = self._model.first_token
        return found

    def logits(self, window: Sequence[int]) -> Logits:
        """Return the logits (P, V) of the positions from SKIPPED on, valid until the next call."""
        self._context.clear()
        found = self._context.read(window, 0, range(SKIPPED, len(window)))
        if self._looking:
            self._looking = False
            self._ggml.check_layout(next(iter(next(iter(self._addresses.values())))))
        return found

    def divergence(self, windows: Sequence[Sequence[int]], reference: Sequence[Logits]) -> float:
        """Return the mean KL(reference ‖ current model) in nats, given reference logits (P, V) for each window."""
        total, n = 0.0, 0
        for window, before in zip(windows, reference, strict=True):
            now = self.logits(window)
            for i in range(0, len(before), _BLOCK):
                p, q = before[i : i + _BLOCK], now[i : i + _BLOCK]
                total += float(kl_divergence(p, q, q - p)[0].sum())
                n += len(p)
        return total / n

    def write(self, name: str, values: npt.NDArray[Any]) -> None:
        """Replace all weights of a tensor; `values` are in the type and layout of the file."""
        if not self._addresses.get(name):
            raise QuantizationError(f"{self._path}: {name} is not in llama.cpp's graph")
        data = np.ascontiguousarray(values)
        for address in self._addresses[name]:  # a tied embedding may be in memory twice
            tensor = ggml_tensor.at(address)
            have = int(tensor.nb[3]) * int(tensor.ne[3])
            if have != data.nbytes:
                raise QuantizationError(
                    f"{self._path}: {name} has {have} bytes in memory and {data.nbytes} in the file"
                )
            self._ggml.write(address, data)
