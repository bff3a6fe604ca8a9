"""Measure the drafts of next-edit completions: recorded rewrites of real models, replayed by a model of another size.

The rewrites are recorded, not computed: whatever the model's logits are, the recorded token wins. Each step takes as
long as with the model's own tokens, so the times show what drafts save with a model of this speed.

    python scripts/bench_next_edit.py model.gguf [requests.jsonl]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from serve.decoder import BatchItem, Logits  # noqa: E402
from serve.engine import Engine, EngineOptions  # noqa: E402
from serve.llama import load  # noqa: E402
from serve.llama.decoder import LlamaDecoder  # noqa: E402
from serve.prompt.region_prompt import find_regions  # noqa: E402
from serve.request import Finished, GenerationRequest, SamplingParams, Usage  # noqa: E402
from serve.settings import ModelOptions  # noqa: E402

RECORDED = ROOT / "tests/data/next_edit_requests.jsonl"
MODES = {"no drafts": (False, False), "repeated text": (True, False), "the region": (True, True)}


class Replayed:
    """Makes a decoder choose recorded tokens after a prompt."""

    def __init__(self, decoder: LlamaDecoder) -> None:
        self._decode = decoder.decode
        self.start, self.tokens = 0, [0]
        decoder.decode = self.decode  # type: ignore[method-assign]

    def decode(self, items: Sequence[BatchItem]) -> Logits:
        rows = np.array(self._decode(items))
        places = [item.pos + 1 - self.start for item in items if item.want_logits]
        for row, place in zip(rows, places, strict=True):
            row[self.tokens[min(max(place, 0), len(self.tokens) - 1)]] = 1e4
        return rows


def replay(
    decoder: LlamaDecoder, recorded: list[dict[str, Any]], *, drafts: bool, predicts: bool
) -> list[Usage]:
    """Return the usage of each request."""
    options = EngineOptions(drafts=drafts, reuses=False)
    engine, replayed, found = Engine(decoder, options), Replayed(decoder), list[Usage]()
    (end,) = decoder.tokenize(decoder.eos, parse_special=True)
    for i, r in enumerate(recorded):
        framed = find_regions(r["body"]["prompt"])
        prompt = decoder.tokenize(r["body"]["prompt"], parse_special=True)
        replayed.tokens = [*decoder.tokenize(r["text"], parse_special=False), end]
        replayed.start = len(prompt)
        expected = framed.expected if framed and predicts else ""
        request = GenerationRequest(
            tuple(prompt), len(replayed.tokens), sampling=SamplingParams(temperature=0.0), prediction=expected,
        )  # fmt: skip
        events = engine.submit(i, request)
        while not any(isinstance(e, Finished) for _, e in events):
            events = engine.step()
        found += [e.usage for _, e in events if isinstance(e, Finished)]
    decoder.decode = replayed._decode  # type: ignore[method-assign]
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("requests", type=Path, nargs="?", default=RECORDED)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    recorded = [json.loads(line) for line in given.requests.read_text("utf-8").splitlines()]
    decoder, _ = load(
        given.model, ModelOptions(ctx=4096, n_seq=1, tunes=False, threads=given.threads)
    )
    targets = dict.fromkeys(r["target"] for r in recorded)
    print(
        f"{'rewrites of':24}{'drafts from':16}{'tokens':>8}{'steps':>8}{'tokens/step':>12}{'seconds':>9}"
    )
    for target in targets:
        mine = [r for r in recorded if r["target"] == target]
        for mode, (drafts, predicts) in MODES.items():
            used = replay(decoder, mine, drafts=drafts, predicts=predicts)
            tokens = sum(u.completion_tokens for u in used)
            steps = tokens - sum(u.accepted_tokens for u in used)
            seconds = sum(u.predict_seconds for u in used)
            print(f"{target:24}{mode:16}{tokens:8}{steps:8}{tokens / steps:12.1f}{seconds:9.2f}")
    decoder.close()


if __name__ == "__main__":
    main()
