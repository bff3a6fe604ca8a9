"""Batch of tokens for llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from turbopilot.llama.batch_item import BatchItem
from turbopilot.llama.library import llama_cpp


class LlamaBatch:
    """A llama_batch in numpy arrays, because filling ctypes arrays in Python loops would dominate a step."""

    def __init__(self, n: int) -> None:
        self._token = np.zeros(n, dtype=np.int32)
        self._pos = np.zeros(n, dtype=np.int32)
        self._seq = np.zeros(n, dtype=np.int32)
        self._wants = np.zeros(n, dtype=np.int8)
        self._one = np.ones(n, dtype=np.int32)
        # llama.cpp reads the sequences of each token (here one) through a pointer.
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
        """Return a llama_batch of these items, which the next call overwrites."""
        n = self._batch.n_tokens = len(items)
        self._token[:n] = [i.token for i in items]
        self._pos[:n] = [i.pos for i in items]
        self._seq[:n] = [i.seq for i in items]
        self._wants[:n] = [i.want_logits for i in items]
        return self._batch

    def fill_run(self, ids: Sequence[int], start: int, wants: Sequence[bool]) -> Any:
        """Return a llama_batch of consecutive tokens of sequence 0, which the next call overwrites."""
        n = self._batch.n_tokens = len(ids)
        self._token[:n] = ids
        self._pos[:n] = np.arange(start, start + n)
        self._seq[:n] = 0
        self._wants[:n] = wants
        return self._batch
