"""Engines that sleep instead of computing, so that two processors run a cluster of many."""

from __future__ import annotations

import time
from collections.abc import Sequence

from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.models import ModelPool
from serve.models.loading import host
from serve.models.pooled_model import PooledModel
from serve.models.status import ModelInfo
from serve.settings import ServerOptions
from turbopilot.cluster.engine_replica import EngineReplica
from turbopilot.cluster.roles import Role
from tests.support.fakes import FakeDecoder, letters
from pathlib import Path


class DelayedDecoder(FakeDecoder):
    """Decoder that takes a fixed time for each batch."""

    def __init__(self, seconds: float, n_seq: int) -> None:
        super().__init__(letters, n_ctx=4096, n_cells=4096 * n_seq, n_batch=512, n_seq=n_seq)
        self._seconds = seconds

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        time.sleep(self._seconds)
        return super().decode(batch)


class DelayedEngine(EngineReplica):
    """Engine of the cluster with a `DelayedDecoder`. Settings: delay in seconds, and the number of sequences."""

    def load(self, role: Role) -> tuple[ModelPool, ServerOptions]:
        seconds, n_seq = role.settings["delay"], role.settings["sequences"]
        decoder = DelayedDecoder(seconds, n_seq)
        info = ModelInfo("fake", decoder.n_ctx, decoder.n_vocab, 1_700_000_000)
        options = EngineOptions(n_slots=n_seq, random_seed=0, drafts=False, looks_ahead=False)
        model = PooledModel(info, 1, lambda: host(Engine(decoder, options)))
        return ModelPool([model], memory=1), ServerOptions(Path())
