"""A recurrent model (Mamba with random weights): its states cannot be cut, so checkpoints are stored."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from serve.engine import Engine, EngineOptions
from serve.engine.checkpoints import TAIL
from serve.llama import load
from serve.llama.decoder import LlamaDecoder
from serve.request import GenerationRequest, SamplingParams
from serve.settings import ModelOptions
from tests.serve.test_reuse import finish
from turbopilot.corpus import calibration_text

WIDTH, INNER, STATE, RANK, LAYERS = 64, 128, 16, 8, 2


def write_mamba(path: Path, tokenizer: Path) -> None:
    """Write a small Mamba with the tokenizer of another model. Names and shapes: llama.cpp's src/models/mamba.cpp."""
    w = gguf.GGUFWriter(path, "mamba")
    w.add_context_length(2048)
    w.add_embedding_length(WIDTH)
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_block_count(LAYERS)
    w.add_ssm_conv_kernel(4)
    w.add_ssm_inner_size(INNER)
    w.add_ssm_state_size(STATE)
    w.add_ssm_time_step_rank(RANK)
    w.add_layer_norm_rms_eps(1e-5)
    for key, field in gguf.GGUFReader(tokenizer).fields.items():
        if key.startswith("tokenizer."):
            kinds = field.types if len(field.types) > 1 else [field.types[0], None]
            w.add_key_value(key, field.contents(), kinds[0], kinds[1])
    rng = np.random.default_rng(0)
    n_vocab = len(gguf.GGUFReader(tokenizer).fields["tokenizer.ggml.tokens"].contents())

    def random(name: str, *shape: int) -> None:
        w.add_tensor(name, (0.3 * rng.standard_normal(shape)).astype(np.float32))

    random("token_embd.weight", n_vocab, WIDTH)
    w.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in (f"blk.{i}." for i in range(LAYERS)):
        w.add_tensor(f"{layer}attn_norm.weight", np.ones(WIDTH, np.float32))
        random(f"{layer}ssm_in.weight", 2 * INNER, WIDTH)
        random(f"{layer}ssm_conv1d.weight", INNER, 4)
        random(f"{layer}ssm_conv1d.bias", INNER)
        random(f"{layer}ssm_x.weight", RANK + 2 * STATE, INNER)
        random(f"{layer}ssm_dt.weight", INNER, RANK)
        random(f"{layer}ssm_dt.bias", INNER)
        decays = -np.tile(np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1))
        w.add_tensor(f"{layer}ssm_a", decays)
        w.add_tensor(f"{layer}ssm_d", np.ones(INNER, np.float32))
        random(f"{layer}ssm_out.weight", WIDTH, INNER)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


@pytest.fixture(scope="module")
def mamba(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mamba") / "mamba.gguf"
    write_mamba(path, demo_gguf)
    return path


def complete(
    decoder: LlamaDecoder, prompts: list[list[int]], n_bytes: int
) -> list[tuple[str, int]]:
    """Return each prompt's greedy completion, and the number of tokens computed for it."""
    decoder.clear()
    options = EngineOptions(n_slots=decoder.n_seq, prefix_cache_bytes=n_bytes, drafts=False)
    engine = Engine(decoder, options)
    found = []
    for i, prompt in enumerate(prompts):
        before = engine.metrics.batch_tokens
        sampling = SamplingParams(temperature=0)
        engine.submit(i, GenerationRequest(tuple(prompt), 8, sampling=sampling))
        found.append((finish(engine), engine.metrics.batch_tokens - before))
    return found


def test_typed_prompts_continue_from_a_checkpoint(mamba: Path) -> None:
    decoder, _ = load(mamba, ModelOptions(ctx=1024, tunes=False))
    assert not decoder.can_cut
    assert not decoder.can_move
    ids = decoder.tokenize(calibration_text()[:4000], parse_special=False)
    prompts = [ids[: 700 + i] for i in range(4)]
    prompts.append(ids[:600] + ids[100:120])
    found = complete(decoder, prompts, 10**8)
    fresh = complete(decoder, prompts, 0)
    decoder.close()
    assert [text for text, _ in found] == [text for text, _ in fresh]
    assert all(n > 600 for _, n in fresh)
    first, *typed, elsewhere = (n for _, n in found)
    assert first > 700
    assert max(typed) <= TAIL + 8 + len(typed)
    assert elsewhere < 200, "from the checkpoint after 512 tokens"
