"""Engines that sleep instead of computing, so that two processors run a cluster of many, and their front."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.models import ModelPool
from serve.models.loading import host
from serve.models.pooled_model import PooledModel
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.settings import ServerOptions
from serve.upstream.address import EngineAddress
from serve.upstream.upstream_runner import UpstreamRunner
from serve.upstream.upstream_set import UpstreamSet
from tests.support.fakes import FakeDecoder, letters
from tests.support.serving import AS_GIVEN
from turbopilot.cluster.engine_replica import EngineReplica
from turbopilot.cluster.front_replica import FrontReplica
from turbopilot.cluster.roles import Role
from turbopilot.cluster.upstream_revision import UpstreamRevision
from turbopilot.cluster.version_switch import ServedRevision

N_CTX = 4096


def delayed_role(seconds: float, *, sequences: int = 4, revision: int = 1) -> Role:
    """Return the role of engines that take a fixed time for each batch."""
    return Role({"delay": seconds, "sequences": sequences}, revision, "secret")


class DelayedDecoder(FakeDecoder):
    """Decoder that takes a fixed time for each batch."""

    def __init__(self, seconds: float, n_seq: int) -> None:
        super().__init__(letters, n_ctx=N_CTX, n_cells=N_CTX * n_seq, n_batch=512, n_seq=n_seq)
        self._seconds = seconds

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        time.sleep(self._seconds)
        return super().decode(batch)


class DelayedEngine(EngineReplica):
    """Engine of a cluster with a `DelayedDecoder`."""

    def load(self, role: Role) -> tuple[ModelPool, ServerOptions]:
        n_seq = role.settings["sequences"]
        decoder = DelayedDecoder(role.settings["delay"], n_seq)
        options = EngineOptions(n_slots=n_seq, random_seed=0, drafts=False, looks_ahead=False)
        info = _info(n_seq)
        model = PooledModel(
            info, 1, lambda: host(Engine(decoder, options), name=info.name, text=AS_GIVEN)
        )
        return ModelPool([model], memory=1), ServerOptions(Path())


class FakeRevision(UpstreamRevision):
    """Front with the fake engines' tokenizer."""

    def open(self, role: Role, urls: Sequence[str]) -> tuple[ModelPool, UpstreamSet, ServerOptions]:
        tokenizer = FakeDecoder()
        upstreams = UpstreamSet(map(EngineAddress.parse, urls), tokenizer, key=role.key)
        upstreams.check()
        runner = UpstreamRunner(upstreams, tokenizer, N_CTX)
        info = _info(4)

        def load() -> CompletionService:
            upstreams.start()
            return CompletionService(runner, tokenizer, info, text=AS_GIVEN)

        return ModelPool([PooledModel(info, 1, load)], memory=1), upstreams, ServerOptions(Path())


class FakeFront(FrontReplica):
    """Front before engines of `DelayedEngine`."""

    def open_revision(self, role: Role, urls: Sequence[str]) -> ServedRevision:
        return FakeRevision(role, urls, "127.0.0.1")


def _info(n_slots: int) -> ModelInfo:
    return ModelInfo("fake", N_CTX, 260, 1_700_000_000, n_slots=n_slots)
