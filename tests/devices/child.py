"""Child process of `tests.devices.lab`: load models as `serve` does, one for each line of stdin.

A worker that is lost ends the process that uses it, and its devices cannot be removed, so the tests do not use workers
in their own process.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serve.decoder import BatchItem
from serve.device_options import DeviceOptions
from serve.llama import loading
from serve.settings import ModelOptions
from turbopilot.base.errors import TurboPilotError
from turbopilot.llama.placement import Placement

TEXT = 'def fibonacci(n):\n    """Return the n-th number."""\n    if n < 2:\n        return n\n'


class Messages(logging.Handler):
    """Handler that keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


def main() -> None:
    kept = None
    logging.getLogger("turbopilot.models").addHandler(messages := Messages())
    placements: list[Placement] = []
    load_placed = loading._load_placed

    def watched(
        header: Any, options: Any, devices: Any, placement: Placement, retunes: bool
    ) -> Any:
        placements.append(placement)
        return load_placed(header, options, devices, placement, retunes)

    loading._load_placed = watched
    for line in sys.stdin:
        job = json.loads(line)
        if kept:
            kept.close()
            kept = None
        messages.seen.clear()
        placements.clear()
        path, keeps, more = Path(job.pop("path")), job.pop("keeps"), job.pop("model", {})
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job.items()}
        devices = DeviceOptions(**given)
        options = ModelOptions(threads=1, tunes=False, devices=devices, **{"n_seq": 1, **more})
        try:
            decoder, report = loading.load(path, options)
        except TurboPilotError as e:
            print(json.dumps({"error": type(e).__name__, "message": e.message}), flush=True)  # noqa: T201
            continue
        ids = decoder.tokenize(TEXT, parse_special=False)
        rows = decoder.decode([BatchItem(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)])
        logits, greedy = rows[0].tolist(), []
        for at in range(len(ids), len(ids) + 8):
            greedy.append(int(rows[0].argmax()))
            rows = decoder.decode([BatchItem(greedy[-1], at, 0, True)])
        placement = placements[-1]
        shares = [
            {"total": s.total, "weights": s.weights, "kv": s.kv, "compute": s.compute, "layers": len(s.layers)}
            for s in (placement.cpu, *placement.shares)
        ]  # fmt: skip
        found = {
            "logits": logits, "greedy": greedy, "uses": [asdict(u) for u in report.uses], "shares": shares,
            "counts": placement.counts, "tried": [p.n_gpu_layers for p in placements], "messages": messages.seen,
        }  # fmt: skip
        print(json.dumps(found), flush=True)  # noqa: T201
        if keeps:
            kept = decoder
        else:
            decoder.close()


if __name__ == "__main__":
    main()
