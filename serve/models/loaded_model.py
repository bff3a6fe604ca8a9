"""A loaded model with its engine's thread. Knows nothing of HTTP; llama.cpp is imported when it is first needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from serve.decoder import Decoder
from serve.models.service import CompletionService, ModelInfo
from serve.runner import EngineRunner
from serve.runner.compute_lock import InTurn, Turns
from serve.runner.steps import Steps
from serve.settings import FimOrder, Limits, ServerOptions


class Hosted(Protocol):
    """A loaded model that computes. Callable from any thread."""

    @property
    def service(self) -> CompletionService:
        """Answers completions."""

    @property
    def n_open(self) -> int:
        """Requests that wait or run."""

    def drain(self) -> None:
        """Refuse new requests from now on; the present ones go on."""

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs; False where the timeout (seconds) was over before."""

    def request_stop(self) -> None:
        """Refuse new requests and end the present ones as cancelled. Returns at once."""

    def close(self) -> None:
        """Stop, and give the memory back. Nobody may use the service any more."""


class HostedModel:
    """A `Hosted` of a runner.

    Args:
        service: the runner's.
        runner: has been started.
        free: gives back what the model takes, after the runner's end.
    """

    def __init__(
        self, service: CompletionService, runner: EngineRunner, free: Callable[[], None]
    ) -> None:
        self._service, self._runner, self._free = service, runner, free

    @property
    def service(self) -> CompletionService:
        """Answers completions."""
        return self._service

    @property
    def n_open(self) -> int:
        """Requests that wait or run."""
        return self._runner.n_open

    def drain(self) -> None:
        """See `Hosted`."""
        self._runner.drain()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """See `Hosted`."""
        return self._runner.wait_until_idle(timeout)

    def request_stop(self) -> None:
        """See `Hosted`."""
        self._runner.request_stop()

    def close(self) -> None:
        """See `Hosted`."""
        self._runner.close()
        self._free()


def host(
    engine: Steps,
    decoder: Decoder,
    *,
    name: str = "",
    limits: Limits | None = None,
    fim_order: FimOrder = "psm",
    free: Callable[[], None] = lambda: None,
) -> HostedModel:
    """Give an engine its thread; returns when it is warm.

    Args:
        engine: used by nobody else.
        decoder: the engine's.
        name: that answers speak of; "" is the decoder's.
        limits: what nobody gets more of.
        fim_order: how fill-in-the-middle is framed.
        free: gives back what engine and decoder take; called once, also where this raises.

    Raises:
        DecoderFailed: it cannot compute anything.
    """
    limits = limits or Limits()
    runner = EngineRunner(engine, max_open=decoder.n_seq + limits.max_queue)
    info = ModelInfo(name or decoder.name, decoder.n_ctx, decoder.n_vocab, int(time.time()))
    service = CompletionService(runner, decoder, info, limits, fim_order)
    hosted = HostedModel(service, runner, free)
    runner.start()
    if failure := runner.failure:
        hosted.close()
        raise failure
    return hosted


def load_model(
    options: ServerOptions, notify: Callable[[str], None], turns: Turns | None = None
) -> HostedModel:
    """Load a GGUF, and give it an engine.

    Args:
        options: which, and how; of `more` nothing is loaded.
        notify: gets lines for a person: what was really set up.
        turns: where other models compute in the same process.

    Raises:
        TurboPilotError: it cannot be loaded.
    """
    from serve.drafting import DraftModel, check_same_vocabulary
    from serve.engine import Engine, EngineOptions
    from serve.llama import load

    caches = options.caches
    notify(f"loading {options.model_file}")
    with ExitStack() as loaded:
        decoder, report = load(options.model_file, options.model)
        loaded.callback(decoder.close)
        for line in report.lines():
            notify(line)
        draft_model = None
        if caches.draft_file:
            small = replace(options.model, ctx=None, n_seq=decoder.n_seq)
            drafter, drafts = load(caches.draft_file, small)
            loaded.callback(drafter.close)
            check_same_vocabulary(decoder, drafter)
            draft_model = DraftModel(drafter)
            notify(f"drafts   {drafts.name} ({drafts.description})")
        kept = caches.prefix_bytes
        engine_options = EngineOptions(
            n_slots=decoder.n_seq,
            random_seed=options.random_seed,
            drafts=caches.drafts,
            looks_ahead=caches.looks_ahead,
            prefix_cache_bytes=report.prefix_bytes if kept is None else kept,
            prefix_folder=caches.prefix_folder,
        )
        engine = Engine(decoder, engine_options, draft_model=draft_model)
        return host(
            InTurn(engine, turns) if turns else engine,
            decoder,
            name=options.model_name,
            limits=options.limits,
            fim_order=options.fim_order,
            free=loaded.pop_all().close,
        )
