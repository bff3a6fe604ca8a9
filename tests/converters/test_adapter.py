"""PEFT adapters as GGUF: a base model with its adapter computes the logits of the merged checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from converters import ConversionOptions, convert, convert_adapter
from converters.adapter_plan import AdaptedTensor, LowRankPair, matrices
from converters.checkpoint import Checkpoint
from converters.planned import PlannedPart, PlannedTensor
from converters.safetensors_file import read_header
from converters.source_tensor import SourceTensor
from tests.support.gguf_faults import rows, tensor
from tests.support.peft_adapter import ALPHA, MODULES, RANK, adapter_config, merged, write_adapter
from tests.support.tiny import FAMILY, tiny_checkpoint
from turbopilot.base.errors import (
    CorruptCheckpoint,
    InvalidInput,
    TensorMismatch,
    TurboPilotError,
    UnsupportedModel,
)
from turbopilot.cli import app
from turbopilot.formats.gguf.check_adapter import check_adapter
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters, LlamaContext, Logits
from turbopilot.llama.model import LlamaModel, ModelParameters

IDS = [(37 * i + 11) % 600 for i in range(40)]


def logits(model: Path, adapters: Sequence[tuple[Path, float]] = ()) -> Logits:
    """Return the logits of every position, with an F32 KV cache."""
    loaded = LlamaModel(read_gguf(model), ModelParameters(repack=False))
    loaded.load_adapters([read_gguf(path) for path, _ in adapters])
    context = LlamaContext(loaded, ContextParameters(256, n_threads=1, cache_type="f32"))
    context.set_adapters(dict(zip(loaded.adapters, (scale for _, scale in adapters), strict=True)))
    found: Logits = context.read(IDS, 0, range(len(IDS))).copy()
    context.close()
    loaded.close()
    return found


def nmse(a: Logits, b: Logits) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a - b) ** 2).sum() / ((b - b.mean(axis=1, keepdims=True)) ** 2).sum())


def converted(folder: Path, base: Path, **options: Any) -> Path:
    path = folder.with_suffix(".gguf")
    convert_adapter(folder, base, path, **options)
    return path


def gguf(folder: Path) -> Path:
    path = folder.with_name(folder.name + "-f32.gguf")
    if not path.exists():
        convert(folder, path, dtype="f32")
    return path


# The tanh GELU of ggml is a table of half-precision values, which the two models use at other places.
LIMIT = 1e-6


@pytest.mark.parametrize("family", FAMILY)
def test_adapted_model_has_the_logits_of_the_merged_checkpoint(tmp_path: Path, family: str) -> None:
    base = tiny_checkpoint(family, tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", MODULES[family])
    whole = gguf(merged(base, adapter, tmp_path / "merged", ALPHA / RANK))
    path, plain = converted(adapter, base), gguf(base)
    wanted = logits(whole)
    assert nmse(logits(plain, [(path, 1.0)]), wanted) < LIMIT
    assert nmse(logits(plain), wanted) > 0.01
    half = gguf(merged(base, adapter, tmp_path / "half", ALPHA / RANK / 2))
    assert nmse(logits(plain, [(path, 0.5)]), logits(half)) < LIMIT


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "blk.0.attn_q.weight"),
        ("llama", "blk.2.attn_k.weight"),
        ("codegen", "blk.0.attn_q.weight"),
        ("codegen", "blk.2.attn_v.weight"),
        ("gptneox", "blk.0.attn_qkv.weight"),
    ],
)
def test_rows_in_the_order_of_the_checkpoint_give_other_logits(
    tmp_path: Path, family: str, name: str
) -> None:
    base = tiny_checkpoint(family, tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", MODULES[family])
    path, plain = converted(adapter, base), gguf(base)
    right = logits(plain, [(path, 1.0)])
    source = {
        "llama": f"model.layers.{name[4]}.self_attn.{name[11:12]}_proj",
        "codegen": f"transformer.h.{name[4]}.attn.qkv_proj",
        "gptneox": f"gpt_neox.layers.{name[4]}.attention.query_key_value",
    }[family]
    state = load_file(adapter / "adapter_model.safetensors")
    b = state[f"base_model.model.{source}.lora_B.weight"].numpy()
    view = rows(path, tensor(read_gguf(path), f"{name}.lora_b")).view(np.float32)
    assert not np.array_equal(view, b[: len(view)])
    view[:] = b[: len(view)]
    assert nmse(logits(plain, [(path, 1.0)]), right) > 1e-3


@pytest.mark.parametrize(
    ("family", "module"),
    [
        ("deepseekv2", "model.layers.0.self_attn.q_proj"),
        ("deepseekv2", "model.layers.1.self_attn.kv_b_proj"),
        ("deepseekv2", "lm_head"),
        ("gptbigcode", "transformer.wpe"),
    ],
)
def test_matrix_that_llama_cpp_does_not_adapt_is_refused(
    tmp_path: Path, family: str, module: str
) -> None:
    base = tiny_checkpoint(family, tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter", (module,))
    with pytest.raises(TensorMismatch, match=f"cannot adapt {re.escape(module)}"):
        convert_adapter(adapter, base, tmp_path / "x.gguf")


def test_scaled_rows_scale_the_adapter(tmp_path: Path) -> None:
    """Refact's queries are multiplied by the root of the head size, for a graph that divides by the size."""
    q = SourceTensor("q.weight", "F32", (8, 6), Path(), 0)
    part = PlannedPart(q, None, transpose=False, scale=3.0)
    target = PlannedTensor("blk.0.attn_q.weight", (8, 6), "F32", (part,))
    a, b = np.ones((2, 6), np.float32), np.arange(16, dtype=np.float32).reshape(8, 2)
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.from_numpy(a), "b": torch.from_numpy(b)}, path)
    held = read_header(path)
    pair = LowRankPair("q", held["a"], held["b"], scaling=2.0)
    one = AdaptedTensor(target, {"q.weight": pair})
    with Checkpoint(held) as checkpoint:
        lora_a, lora_b = matrices(one, checkpoint, alpha=one.alpha)
    np.testing.assert_array_equal(lora_a, a)
    np.testing.assert_array_equal(lora_b, 3 * b)


def test_two_adapters_add_up(tmp_path: Path) -> None:
    base = tiny_checkpoint("llama", tmp_path / "base")
    one = write_adapter(base, tmp_path / "one", MODULES["llama"][:6], seed=1)
    two = write_adapter(base, tmp_path / "two", MODULES["llama"][3:], seed=2, lora_alpha=4)
    both = merged(merged(base, one, tmp_path / "first", 2.0), two, tmp_path / "both", 0.5)
    applied = [(converted(one, base), 1.0), (converted(two, base), 1.0)]
    assert nmse(logits(gguf(base), applied), logits(gguf(both))) < LIMIT


def test_embedding_can_be_adapted_if_it_is_not_the_output_too(tmp_path: Path) -> None:
    base = tiny_checkpoint("qwen2", tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "a", (), embedding="model.embed_tokens")
    whole = gguf(merged(base, adapter, tmp_path / "merged", ALPHA / RANK))
    path = converted(adapter, base)
    assert nmse(logits(gguf(base), [(path, 1.0)]), logits(whole)) < LIMIT
    assert nmse(logits(gguf(base)), logits(whole)) > 0.01

    tied = tiny_checkpoint("qwen2", tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(TensorMismatch, match=r"model\.embed_tokens.*as its output too"):
        convert_adapter(adapter, tied, tmp_path / "x.gguf")
    with pytest.raises(InvalidInput, match=r"token_embd\.weight\.lora_a.*also the output"):
        check_adapter(read_gguf(path), read_gguf(gguf(tied)))


def test_rank_stabilized_adapter_with_patterns_is_exact(tmp_path: Path) -> None:
    base = tiny_checkpoint("llama", tmp_path / "base")
    q, k, down = (MODULES["llama"][i] for i in (0, 1, 10))
    adapter = write_adapter(
        base, tmp_path / "a", (q, k, down), ranks={k: 4}, use_rslora=True,
        rank_pattern={"k_proj": 4}, alpha_pattern={f"^{down}": 40.5},
    )  # fmt: skip
    scales = {q: ALPHA / RANK**0.5, k: ALPHA / 2, down: 40.5 / RANK**0.5}
    whole = gguf(merged(base, adapter, tmp_path / "merged", scales))
    assert nmse(logits(gguf(base), [(converted(adapter, base), 1.0)]), logits(whole)) < LIMIT


def test_modules_stacked_in_one_tensor_become_one_pair(tmp_path: Path) -> None:
    """SantaCoder stores q apart from k and v; adapters of both become a block-diagonal one."""
    base = tiny_checkpoint("gptbigcode", tmp_path / "base", tie_word_embeddings=True)
    weights, config = (
        load_file(base / "model.safetensors"),
        json.loads((base / "config.json").read_text()),
    )
    santa, module = tmp_path / "santa", "transformer.h.1.attn.c_attn"
    santa.mkdir()
    config |= {"architectures": ["GPT2LMHeadCustomModel"], "attention_head_type": "multiquery"}
    config["activation_function"] = "gelu_fast"
    (santa / "config.json").write_text(json.dumps(config))
    rng = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.normal(0.0, 0.2, shape, generator=rng)

    q, kv = (random(4, 256), random(256, 4)), (random(6, 256), random(64, 6))
    state: dict[str, torch.Tensor] = {}
    for name, (a, b) in (("q_attn", q), ("kv_attn", kv)):
        at = f"base_model.model.{module.replace('c_attn', name)}"
        state |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
    adapter = tmp_path / "a"
    adapter.mkdir()
    save_file(state, adapter / "adapter_model.safetensors")
    settings = adapter_config(r=4, lora_alpha=8, rank_pattern={"kv_attn": 6})
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    path = converted(adapter, santa)
    assert tensor(read_gguf(path), "blk.1.attn_qkv.weight.lora_a").shape == (256, 10)

    whole = tmp_path / "merged"
    tiny_checkpoint("gptbigcode", whole, tie_word_embeddings=True)
    delta = torch.cat([8 / 4 * q[1] @ q[0], 8 / 6 * kv[1] @ kv[0]])
    weights[f"{module}.weight"] = weights[f"{module}.weight"] + delta
    save_file(weights, whole / "model.safetensors")
    assert nmse(logits(gguf(base), [(path, 1.0)]), logits(gguf(whole))) < LIMIT


@pytest.mark.parametrize(("dtype", "limit"), [("f16", 1e-5), ("bf16", 1e-3)])
def test_adapter_can_be_written_in_half_precision(tmp_path: Path, dtype: str, limit: float) -> None:
    base = tiny_checkpoint("llama", tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "a", MODULES["llama"])
    exact = logits(gguf(base), [(converted(adapter, base), 1.0)])
    path = tmp_path / "half.gguf"
    convert_adapter(adapter, base, path, dtype=dtype)
    assert read_gguf(path).main_type() == dtype.upper()
    assert 0 < nmse(logits(gguf(base), [(path, 1.0)]), exact) < limit
    with pytest.raises(InvalidInput, match="--dtype q8_0: not for adapters"):
        convert_adapter(adapter, base, tmp_path / "x.gguf", dtype="q8_0")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("llama") / "base")


REFUSED: list[tuple[dict[str, Any], type[TurboPilotError], str]] = [
    ({"use_dora": True}, UnsupportedModel, "use_dora is true"),
    ({"bias": "all"}, UnsupportedModel, "bias is \"all\""),
    ({"modules_to_save": ["lm_head"]}, UnsupportedModel, "modules_to_save is set"),
    ({"trainable_token_indices": [1]}, UnsupportedModel, "trainable_token_indices"),
    ({"peft_type": "IA3"}, UnsupportedModel, "peft_type is \"IA3\""),
    ({"init_lora_weights": "pissa"}, UnsupportedModel, "init_lora_weights is \"pissa\""),
    ({"r": 0}, UnsupportedModel, "r is 0; expected an integer from 1"),
    ({"r": 4}, TensorMismatch, r"q_proj\.lora_A\.weight' has the rank 8, but adapter_config\.json states 4"),
    ({"lora_alpha": "16"}, UnsupportedModel, "lora_alpha is \"16\""),
    ({"rank_pattern": {"(a+)+": 4}}, UnsupportedModel, "regular expression"),
    ({"alpha_pattern": {"q_proj": True}}, UnsupportedModel, "the value of 'q_proj' is True"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "kind", "message"), REFUSED)
def test_adapter_that_gguf_cannot_express_is_refused(
    llama: Path, tmp_path: Path, values: dict[str, Any], kind: type[TurboPilotError], message: str
) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"][:1])
    (adapter / "adapter_config.json").write_text(json.dumps(adapter_config(**values)))
    with pytest.raises(kind, match=message) as caught:
        convert_adapter(adapter, llama, tmp_path / "x.gguf")
    assert caught.value.hint
    assert not list(tmp_path.glob("x.gguf*"))


TENSORS: list[tuple[dict[str, tuple[int, ...] | None], str]] = [
    ({"model.layers.0.self_attn.q_proj.lora_B.weight": None}, "missing: the other matrix of"),
    ({"model.layers.9.mlp.up_proj.lora_A.weight": (8, 256), "model.layers.9.mlp.up_proj.lora_B.weight": (768, 8)},
     r"no matrix 'model\.layers\.9\.mlp\.up_proj'"),
    ({"model.layers.0.self_attn.q_proj.lora_B.weight": (128, 8)}, r"misshapen: .*q_proj.* \(128, 8\)"),
    ({"model.layers.0.self_attn.q_proj.lora_A.weight": (0, 256)}, "has the rank 0"),
    ({"model.embed_tokens.weight": (1030, 256)}, r"unknown: .*model\.embed_tokens\.weight"),
    ({"model.embed_tokens.base_layer.weight": (1030, 256)}, r"misshapen: .*base_layer\.weight' is \(1030, 256\)"),
    ({"model.layers.0.self_attn.q_proj.lora_magnitude_vector": (256,)}, "lora_magnitude_vector"),
    ({"model.layers.0.input_layernorm.lora_A.weight": (8, 256), "model.layers.0.input_layernorm.lora_B.weight": (1, 8)},
     r"cannot adapt model\.layers\.0\.input_layernorm"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), TENSORS)
def test_adapter_with_wrong_tensors_is_refused(
    llama: Path, tmp_path: Path, changes: dict[str, tuple[int, ...] | None], message: str
) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"][:1])
    state = load_file(adapter / "adapter_model.safetensors")
    for name, shape in changes.items():
        state.pop(f"base_model.model.{name}", None)
        if shape:
            state[f"base_model.model.{name}"] = torch.zeros(shape)
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(TensorMismatch, match=message):
        convert_adapter(adapter, llama, tmp_path / "x.gguf")


def test_adapter_of_another_model_is_refused(llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"])
    other = tiny_checkpoint("codegen", tmp_path / "codegen")
    with pytest.raises(TensorMismatch, match="CodeGenForCausalLM"):
        convert_adapter(adapter, other, tmp_path / "x.gguf")
    wide = tiny_checkpoint("llama", tmp_path / "wide", hidden_size=512)
    with pytest.raises(TensorMismatch, match=r"q_proj\.lora_A\.weight is \(8, 256\)"):
        convert_adapter(adapter, wide, tmp_path / "x.gguf")


def test_damaged_adapter_is_refused(llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"][:2])
    state = load_file(adapter / "adapter_model.safetensors")
    next(iter(state.values()))[0, 0] = torch.nan
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(TensorMismatch, match="NaN or infinite"):
        convert_adapter(adapter, llama, tmp_path / "x.gguf")
    config = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text("[")
    with pytest.raises(CorruptCheckpoint, match=r"adapter_config\.json: not JSON"):
        convert_adapter(adapter, llama, tmp_path / "x.gguf")
    (adapter / "adapter_config.json").write_text(config)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(weights[:-8])
    with pytest.raises(CorruptCheckpoint, match="truncated"):
        convert_adapter(adapter, llama, tmp_path / "x.gguf")
    assert not list(tmp_path.glob("x.gguf*"))


def test_metadata_names_the_base_model_and_the_source_files(llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"])
    path = tmp_path / "out.gguf"
    convert_adapter(adapter, llama, path, ConversionOptions(name="style"))
    m = read_gguf(path).metadata
    assert m["general.type"] == "adapter"
    assert m["adapter.type"] == "lora"
    assert m["adapter.lora.alpha"] == ALPHA
    assert m["general.name"] == "style"
    assert m["general.base_model.0.repo_url"] == "https://huggingface.co/owner/base"
    assert m["turbopilot.source.files"] == ["adapter_config.json", "adapter_model.safetensors"]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.output


def test_command_recognizes_an_adapter_folder(llama: Path, tmp_path: Path) -> None:
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"])
    out = tmp_path / "out.gguf"
    code, said = run("convert", adapter, "-o", out)
    assert code == 2
    assert "trained on owner/base" in said
    assert "--base MODEL" in said
    code, said = run("convert", adapter, "--base", llama, "--dry-run")
    assert code == 0
    assert "blk.0.attn_q.weight.lora_b  F32 [256, 8] ← model.layers.0.self_attn.q_proj" in said
    code, said = run("convert", adapter, "--base", llama, "-o", out)
    assert code == 0, said
    assert f"--lora {out}" in said.replace("\n", "")
    code, said = run("inspect", out)
    assert code == 0
    assert "lora of rank 8, alpha 16; changes 12 tensors of a model" in said
    assert run("convert", llama, "--base", llama)[0] == 2
    code, said = run("convert", adapter, "--base", llama, "--vocab-only")
    assert code == 2
    assert "--vocab-only: not for an adapter" in said
    code, said = run("inspect", adapter)
    assert code == 2
    assert "is a LoRA adapter" in said


def test_base_that_the_adapter_names_is_used_if_it_is_a_folder(llama: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"base_model_name_or_path": str(llama)}
    adapter = write_adapter(llama, tmp_path / "a", MODULES["llama"][:1], **values)
    assert run("convert", adapter, "-o", tmp_path / "out.gguf")[0] == 0
