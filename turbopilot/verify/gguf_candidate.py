"""GGUF file run by llama.cpp, on the CPU unless devices are wanted.

To measure only the error of the weights, the KV cache is F32 and flash attention, which accumulates in F16, is off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters, LlamaContext
from turbopilot.llama.device_memory import ContextNeed
from turbopilot.llama.fitting import fitted
from turbopilot.llama.flash_attention import OFF
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.library import VERSION
from turbopilot.llama.model import LlamaModel, ModelParameters
from turbopilot.llama.placement_wish import PlacementWish
from turbopilot.verify.source import Logits, Window

_LONGEST: Final = 4096  # tokens of a context for which devices need memory
_BATCH: Final = 256  # tokens decoded at once: bounds llama.cpp's own logits buffer to 256·V floats


class GgufCandidate:
    """GGUF file as a `LogitsSource`. Use it as a context manager, or call `close()`.

    Args:
        path: the GGUF file.
        n_threads: threads of llama.cpp; by default half of the cores.

        wish: which layers go to devices; none by default.

    Raises:
        InvalidInput: the file does not exist.
        CorruptModel: the file is not a GGUF, has no tokenizer, or llama.cpp cannot load it (with its reason).
    """

    def __init__(
        self,
        path: Path,
        *,
        n_threads: int | None = None,
        wish: PlacementWish = PlacementWish(0),  # noqa: B008 — frozen
    ) -> None:
        self.header, self.name = read_gguf(path), str(path)
        # NaN in quantized weights can disappear when activations are rounded, so check the tensors themselves.
        self._offloads = wish.n_gpu_layers != 0
        need = ContextNeed(_LONGEST, KvLayout(), "f32", _BATCH, _BATCH, has_scores=True)
        parameters = ModelParameters(check_tensors=True)
        if self._offloads:
            parameters = fitted(self.header, need, wish, check_tensors=True)
        self._model = LlamaModel(self.header, parameters)
        self._context: LlamaContext | None = None
        self._n_threads = n_threads or _default_threads()
        self.n_vocab, self.n_ctx = self._model.n_vocab, self._model.n_ctx_train
        self.versions = {"llama-cpp-python": VERSION}

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text; see `LogitsSource.tokenize`."""
        return self._model.tokenize(text, parse_special=True)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids; see `LogitsSource.text`."""
        pieces = [self._model.piece(i, special=True) for i in ids]
        return b"".join(pieces).decode("utf-8", errors="replace")

    def logits(self, window: Window) -> Iterator[Logits]:
        """Yield the logits of a window; see `LogitsSource.logits`."""
        context = self._empty_context(len(window.ids))
        read = 0
        for block in window.blocks(self.n_vocab):
            yield np.concatenate(
                list(_read(context, window.ids, range(read, block[-1] + 1), block))
            )
            read = block[-1] + 1

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """Return n tokens of greedy continuation of `ids`."""
        context = self._empty_context(len(ids) + n)
        written, read = list(ids), 0
        while len(written) < len(ids) + n:
            end = len(written)
            *_, logits = _read(context, written, range(read, end), range(end - 1, end))
            read = end
            written.append(int(logits[0].argmax()))
        return written[len(ids) :]

    def _empty_context(self, n_tokens: int) -> LlamaContext:
        """Return an empty context for at least `n_tokens`; replace the current one if it is too small."""
        n_ctx = max(n_tokens, _BATCH)
        if self._context is None or n_ctx > self._context.n_cells:
            if self._context is not None:
                self._context.close()
                self._context = None
            # By default, run on the CPU even if there is a GPU.
            parameters = ContextParameters(
                n_ctx, _BATCH, n_threads=self._n_threads, cache_type="f32", flash_attention=OFF, offload=self._offloads
            )  # fmt: skip
            self._context = LlamaContext(self._model, parameters)
        self._context.clear()
        return self._context

    def close(self) -> None:
        """Free the model. A second call does nothing."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self._model.close()

    def __enter__(self) -> GgufCandidate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(
    context: LlamaContext, ids: Sequence[int], positions: range, outputs: range
) -> Iterator[Logits]:
    """Decode tokens in batches and yield copies of the logits at the positions in `outputs`."""
    for start in positions[::_BATCH]:
        stop = min(start + _BATCH, positions.stop)
        yield context.read(ids[start:stop], start, outputs).copy()


def _default_threads() -> int:
    """Return half of the cores that this process may use.

    llama.cpp's threads spin while they wait for each other, so one core that is busy with other work stalls them all:
    two threads on two busy cores took eight times as long as one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // 2)
