"""Greedy completions equal llama.cpp's token for token, with concurrent requests, priorities, drafts and caches."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serve.decoder import BatchItem
from serve.engine import Engine, EngineOptions
from serve.engine.sequence import Sequence
from serve.llama import load
from serve.llama.decoder import LlamaDecoder
from serve.request import Finished, GenerationRequest, SamplingParams
from serve.settings import ModelOptions
from turbopilot.corpus import evaluation_text

# Batches of other shapes use other kernels and round differently. If the logits of the two likeliest tokens differ by
# less than this, either is correct, and the texts may differ from there on.
MARGIN = 0.1
GREEDY = SamplingParams(temperature=0)
N_CTX = 512


class Reference:
    """Plain llama.cpp with one sequence: prefill of the whole prompt, then decode token by token."""

    def __init__(self, path: Path) -> None:
        self.decoder, _ = load(path, ModelOptions(threads=1, ctx=N_CTX, n_seq=1))
        self._known: dict[tuple[int, ...], tuple[list[int], list[float]]] = {}

    def continue_(self, prompt: tuple[int, ...], n: int) -> tuple[list[int], list[float]]:
        """Return the greedy tokens, and the difference of each token's logit to the second best."""
        key = (*prompt, n)
        if key not in self._known:
            self._known[key] = self._compute(prompt, n)
        return self._known[key]

    def _compute(self, prompt: tuple[int, ...], n: int) -> tuple[list[int], list[float]]:
        d = self.decoder
        d.remove(0, 0)
        tokens, margins = list(prompt), list[float]()
        batch = [BatchItem(t, i, 0, i == len(prompt) - 1) for i, t in enumerate(prompt)]
        while len(margins) < n:
            (row,) = d.decode(batch)
            second, best = np.partition(row, -2)[-2:]
            margins.append(float(best - second))
            tokens.append(int(row.argmax()))
            if d.is_eog(tokens[-1]):
                break
            batch = [BatchItem(tokens[-1], len(tokens) - 1, 0, True)]
        return tokens[len(prompt) :], margins


@pytest.fixture(scope="module")
def reference(demo_gguf: Path) -> Iterator[Reference]:
    reference = Reference(demo_gguf)
    yield reference
    reference.decoder.close()


class Watched(Engine):
    """Engine that stores the tokens of ended sequences, which the events do not contain."""

    def __init__(self, decoder: LlamaDecoder, options: EngineOptions) -> None:
        self.tokens: dict[int, list[int]] = {}
        # Every step takes equally long, so that drafts do not depend on the machine's load.
        clock = itertools.count(0.0, 0.01).__next__
        super().__init__(decoder, options, clock, on_end=self.remember)

    def remember(self, s: Sequence) -> None:
        self.tokens[s.id] = s.tokens[len(s.request.prompt) :]


def prompts(decoder: LlamaDecoder, rng: random.Random, n: int) -> list[tuple[int, ...]]:
    """Return prompts of code; about half of them begin with a prefix of another prompt."""
    text = evaluation_text()
    made: list[tuple[int, ...]] = []
    for _ in range(n):
        at = rng.randrange(len(text) - 2000)
        tokens = decoder.tokenize(text[at : at + 2000], parse_special=False)
        tokens = tokens[: rng.randint(1, 120)]
        if made and rng.random() < 0.5:
            other = rng.choice(made)
            tokens = [*other[: rng.randint(1, len(other))], *tokens[: rng.randint(0, 20)]]
        made.append(tuple(tokens))
    return made


@pytest.mark.parametrize("helped", [True, False], ids=["helped", "plain"])
@pytest.mark.parametrize(
    ("n_seq", "pooled"), [(1, True), (5, True), (5, False), (16, True), (16, False)]
)
def test_greedy_completions_equal_llama_cpp(
    demo_gguf: Path,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    n_seq: int,
    pooled: bool,
    helped: bool,
) -> None:
    """Compare with and without drafts and the prefix cache, including repeated and continued prompts."""
    monkeypatch.setattr("turbopilot.llama.footprint.SPLIT_SHARE", 10**12 if pooled else 1)
    decoder, report = load(demo_gguf, ModelOptions(threads=1, ctx=N_CTX, n_batch=128, n_seq=n_seq))
    assert report.is_split is (not pooled)
    stored = 64 * 2**20 if helped else 0
    engine = Watched(decoder, EngineOptions(n_seq, drafts=helped, prefix_cache_bytes=stored))
    rng = random.Random(f"{n_seq} {helped} {pooled}")
    asked = [(p, rng.randint(1, 16)) for p in prompts(decoder, rng, 16)]
    ended = play(engine, rng, asked)
    for i in range(8):
        prompt, n = asked[i]
        asked.append(((*prompt, *engine.tokens[i][: i % 4]), n))
    ended |= play(engine, rng, asked[16:], first=16)
    decoder.close()

    assert set(ended) == set(range(24))
    same = 0
    for i, (prompt, n) in enumerate(asked):
        assert ended[i].error is None
        tokens, margins = reference.continue_(prompt, n)
        doubtful = next((k for k, m in enumerate(margins) if m < MARGIN), len(tokens))
        wanted = [t for t in tokens[:doubtful] if not reference.decoder.is_eog(t)]
        assert engine.tokens[i][:doubtful] == wanted
        same += doubtful
    assert same >= 2 * len(asked)  # otherwise the margin would hide most differences
    assert engine.metrics.cached_tokens > 0
    assert engine.metrics.known_tokens > 0
    if not helped:
        assert engine.metrics.drafted_tokens == 0
    elif pooled:  # with separate cells, only a sequence that runs alone gets drafts
        assert engine.metrics.accepted_tokens > 0


def play(
    engine: Engine, rng: random.Random, asked: list[tuple[tuple[int, ...], int]], first: int = 0
) -> dict[int, Finished]:
    """Submit requests at random times, step until all have ended, and return their last events."""
    ended: dict[int, Finished] = {}
    left = list(enumerate(asked, first))
    while left or engine.has_work:
        events = []
        while left and rng.random() < 0.6:
            i, (prompt, n) = left.pop(0)
            is_low = rng.random() < 0.4  # interrupted by the others, and continued
            events += engine.submit(i, GenerationRequest(prompt, n, sampling=GREEDY, is_low=is_low))
        events += engine.step()
        engine.check_integrity()
        ended |= {i: e for i, e in events if isinstance(e, Finished)}
    return ended
