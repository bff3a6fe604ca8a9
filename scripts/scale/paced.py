#!/usr/bin/env python3
"""Serve a fake model whose steps take a fixed time, so that several replicas do not compete for the processor.

    PYTHONPATH=. python scripts/scale/paced.py --port 18080

All but the computation is the real server: sockets, queue, slots, prefix cache, cancellation. Tokens are bytes. One
step takes STEP seconds, TOKEN for each prompt token and EACH for each sequence that decodes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.http.server import HttpServer, bind
from serve.models import ModelPool, PooledModel
from serve.models.loading import host
from serve.models.status import ModelInfo
from serve.settings import TextOptions
from tests.support.fakes import FakeDecoder

STEP, TOKEN, EACH = 0.008, 0.0002, 0.004  # seconds
SLOTS, CONTEXT, BATCH = 4, 4096, 2048
CACHE_BYTES = 256 << 20
_BYTES_OF_TOKEN = 13  # in the prefix cache: its text, and 8 for the key
CACHE_TOKENS = CACHE_BYTES // _BYTES_OF_TOKEN


def letter(history: Sequence[int]) -> int:
    """Return a letter that depends on the length and the last token, without reading all tokens."""
    return ord("a") + (7 * len(history) + history[-1]) % 26


class PacedDecoder(FakeDecoder):
    """Fake decoder that computes at a fixed speed."""

    def __init__(self) -> None:
        cells = SLOTS * CONTEXT  # each slot has its own, as with a real model if memory suffices
        super().__init__(letter, n_ctx=CONTEXT, n_cells=cells, n_batch=BATCH, n_seq=SLOTS)

    @property
    def n_used(self) -> int:
        """Number of used cells, without looking for shared ones."""
        return sum(map(len, self.kv.values()))

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        began = time.perf_counter()
        found = super().decode(batch)
        n = {item.seq: 0 for item in batch}
        for item in batch:
            n[item.seq] += 1
        seconds = STEP + sum(EACH if tokens == 1 else TOKEN * tokens for tokens in n.values())
        time.sleep(max(0.0, began + seconds - time.perf_counter()))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    decoder = PacedDecoder()
    options = EngineOptions(
        n_slots=SLOTS, drafts=False, reuses=False, prefix_cache_bytes=CACHE_BYTES
    )
    text = TextOptions(heals=False, ends_loops=False, next_edit="sweep")
    info = ModelInfo(decoder.name, CONTEXT, decoder.n_vocab, 0)
    models = [PooledModel(info, 1, lambda: host(Engine(decoder, options), text=text))]
    with contextlib.suppress(KeyboardInterrupt):
        HttpServer(create_app(ModelPool(models, memory=1)), bind("127.0.0.1", port)).run()
    os._exit(0)  # threads still serve connections that their clients have left open


if __name__ == "__main__":
    main()
