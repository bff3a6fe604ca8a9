"""Step of scripts/check_gpu that measures speed, with as much work for each cell as its share of the time allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from bench.client import BadAnswer
from bench.gpu_check import GpuCheck, GpuResults, Pace, SpeedRow, Work, both_ends
from bench.gpu_models import Models
from bench.scenarios import closed_loop
from bench.servers import PATIENCE, NotStarted, started

_PROBE = (16, 8)  # tokens of the prompt and the completion from which the first pace is estimated
_SHORT = 1.0  # seconds; a server that has less left for a measurement is not asked
_SLOWER = 4  # a server may take this many times the time that was planned


def speed(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Measure streams in every type, first with all layers on the GPU, until the time runs out."""
    cells = [
        [SpeedRow(t, name, n) for n in check.sizes.streams]
        for name in models.layers()
        for t in check.sizes.types
    ]
    results.speeds = [row for rows in cells for row in rows]
    models.f16.stat()  # made before the time is shared out
    try:
        for i in range(check.sizes.rounds):
            longest = 0.0
            for j, rows in enumerate(cells):
                # The first round has all of the time; later ones take what is left.
                share = check.seconds_left / (len(cells) - j)
                if i and check.seconds_left < 1.5 * longest:
                    return
                began = time.monotonic()
                measure_cell(check, models, rows, share, results)
                longest = max(longest, time.monotonic() - began)
    finally:
        judge_speed(check, results)


def measure_cell(
    check: GpuCheck, models: Models, rows: Sequence[SpeedRow], share: float, results: GpuResults
) -> None:
    """Measure the rows of one type and number of layers on one start of each server, in about `share` seconds."""
    type_name, layers = rows[0].type_name, rows[0].layers
    path, most = models.file(type_name), max(check.sizes.streams)
    ctx = -(-(check.sizes.stream.prompt + check.sizes.stream.generated + 1) // 256) * 256
    ends = [time.monotonic() + share * (k + 1) / len(check.peers) for k in range(len(check.peers))]
    for peer, end in zip(check.peers, ends, strict=True):
        settings = peer.settings(models.layers()[layers], most, ctx, check.rpc)
        patience = min(PATIENCE, check.seconds_left)
        try:
            with started(peer.server, path, check.n_threads, settings, patience=patience) as server:
                measured = ServedSpeed(check, models, server.port, peer.server.name)
                # A server that started slowly is measured nevertheless, for half of its time.
                least = time.monotonic() + share / (2 * len(check.peers))
                measured.rows(rows, max(end, least))
        except (NotStarted, BadAnswer, OSError) as e:
            what = f"speed, {type_name}, {layers} layers"
            results.add(what, False, both_ends(f"{peer.server.name}: {e}"))


@dataclass(frozen=True)
class ServedSpeed:
    """A running server whose speed is measured."""

    check: GpuCheck
    models: Models
    port: int
    name: str

    def rows(self, rows: Sequence[SpeedRow], end: float) -> None:
        """Measure the rows until `end`; the pace of each is estimated from the one before, which had fewer streams."""
        _, pace = self._measure(Work(1, *_PROBE), 1)
        for i, row in enumerate(rows):
            seconds = (end - time.monotonic()) / (len(rows) - i)
            if row.work is None:
                row.work = self.check.sizes.stream.fitting(pace, seconds, row.streams)
            if row.work is None:
                continue
            if row.work.seconds(pace, row.streams) > max(_SHORT, _SLOWER * seconds):
                continue
            found, pace = self._measure(row.work, row.streams)
            row.speeds[self.name] = max(found, row.speeds.get(self.name, 0.0))

    def _measure(self, work: Work, streams: int) -> tuple[float, Pace]:
        """Return the generated tokens/s of all streams, and the tokens/s of prompts and completions together."""
        prompts = self.models.prompts(work.prompt)
        queues = [list(islice(prompts, work.requests)) for _ in range(streams)]
        found = asyncio.run(closed_loop(self.port, queues, work.generated)).found
        speed = (found["prompt_tokens"] + found["tokens"]) / found["seconds"]
        return found["tokens_per_second"], Pace(speed, speed)


def judge_speed(check: GpuCheck, results: GpuResults) -> None:
    """Record what was not measured, and whether we are at least as fast as llama-server."""
    missing = [r for r in results.speeds if len(r.speeds) < len(check.peers)]
    if missing:
        cells = ", ".join(f"{r.type_name}/{r.layers}/{r.streams}" for r in missing)
        n = len(results.speeds)
        results.add(
            "speed", None, f"no time for {len(missing)} of {n} (type/layers/streams): {cells}"
        )
    ratios = [r.ratio for r in results.speeds if r.ratio is not None]
    if ratios and check.sizes.compares_speed:
        slower = sum(r < 1 for r in ratios)
        detail = f"{len(ratios) - slower} of {len(ratios)} at least as fast as llama-server"
        results.add("speed beside llama-server", not slower, f"{detail}; least {min(ratios):.2f} ×")
    else:
        why = (
            "no row was measured on both servers"
            if len(check.peers) > 1
            else "no llama-server was given"
        )
        why = "the sizes are too small" if ratios else why
        results.add("speed beside llama-server", None, why)
