"""Graphs with ALiBi, multipliers or a scaled embedding: concurrent greedy completions equal PyTorch's."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from converters import convert
from serve.engine import Engine, EngineOptions
from serve.llama import load
from serve.request import GenerationRequest, SamplingParams
from serve.settings import ModelOptions
from tests.support.refact import tiny_refact
from tests.support.tiny import tiny_checkpoint
from turbopilot.verify.torch_reference import TorchReference

PROMPT = "def f(x):\n    return x + 12345\n"
N_TOKENS = 12


@pytest.mark.parametrize("family", ["gemma", "granite", "refact"])
def test_concurrent_completions_equal_those_of_pytorch(family: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    if family == "refact":
        tiny_refact(folder)
    else:
        tiny_checkpoint(family, folder)
    convert(folder, tmp_path / "f32.gguf", dtype="f32")
    reference = TorchReference(folder, streamed=False)
    ids = reference.tokenize(PROMPT)
    prompts = [tuple(ids[:n]) for n in (10, 14, len(ids))]
    decoder, _ = load(
        tmp_path / "f32.gguf", ModelOptions(threads=1, ctx=512, n_seq=len(prompts), tunes=False)
    )
    assert decoder.can_move == (family != "refact"), "ALiBi's positions are not rotations"
    engine = Engine(decoder, EngineOptions(n_slots=decoder.n_seq, drafts=False))
    for i, prompt in enumerate(prompts):
        greedy = SamplingParams(temperature=0)
        engine.submit(i, GenerationRequest(prompt, N_TOKENS, sampling=greedy))
    texts: defaultdict[int, str] = defaultdict(str)
    while engine.has_work:
        for i, event in engine.step():
            texts[i] += getattr(event, "text", "")
    decoder.close()
    for i, prompt in enumerate(prompts):
        continued = reference.continued(prompt, N_TOKENS)
        assert continued
        assert texts[i] == reference.text(continued)
