"""A batch of tokens as llama.cpp reads it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

from serve.decoder import BatchItem


class Batch:
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
