"""Complete conversions of tiny random checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from converters import ConversionOptions, convert, dry_run, export_gptj
from converters.registry import FAMILIES
from tests.support.tiny import FAMILY, tiny_checkpoint
from turbopilot.formats.gguf.file import read_gguf


@pytest.fixture(scope="session", params=["codegen", "gptj"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param) / request.param)


def gguf_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    info = next(t for t in read_gguf(path).tensors if t.name == name)
    dtype = {"F32": "<f4", "F16": "<f2"}[info.type_name]
    raw = path.read_bytes()[info.offset : info.offset + info.n_bytes]
    return np.frombuffer(raw, dtype).reshape(info.shape[::-1])


def model_of(path: Path) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """Return a GGUF's metadata, except names and digests of source files, and its tensors' bytes."""
    header, raw = read_gguf(path), path.read_bytes()
    said = {k: v for k, v in header.metadata.items() if not k.startswith("turbopilot.source.")}
    return said, [(t.name, raw[t.offset : t.offset + t.n_bytes]) for t in header.tensors]


def test_every_family_has_a_tiny_model() -> None:
    """Compare with all families except SantaCoder's and Refact's, which transformers lacks; they have other tests."""
    names = {f.architecture.lower().removesuffix("forcausallm") for f in FAMILIES}
    assert names - {"gpt2lmheadcustommodel", "gptrefact"} <= set(FAMILY)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_checkpoint_converts_to_gguf(tiny: Path, tmp_path: Path, dtype: str) -> None:
    seen: list[tuple[int, int]] = []
    report = convert(
        tiny, tmp_path / "out.gguf", dtype=dtype, progress=lambda d, n, what="": seen.append((d, n))
    )
    header = read_gguf(tmp_path / "out.gguf")
    assert header.architecture == "phi2"
    assert report.n_tensors == len(header.tensors) == 3 * 11 + 5
    assert {t.type_name for t in header.tensors if len(t.shape) == 2} == {dtype.upper()}
    assert {t.type_name for t in header.tensors if len(t.shape) == 1} == {"F32"}
    assert seen[-1][0] == seen[-1][1] == header.tensor_bytes
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"], "no other files are left"
    assert header.metadata["phi2.rope.dimension_count"] == 16
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    tokens, types = (
        header.metadata["tokenizer.ggml.tokens"],
        header.metadata["tokenizer.ggml.token_type"],
    )
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert len(tokens) == len(types) == 1024
    assert types[699] == 3, "<|endoftext|> is a control token"
    assert types[700] == 4, "added tokens are user-defined"
    assert types[-1] == 5, "rows beyond the tokenizer are unused"


def test_tensor_values_are_unchanged(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "cg")
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    same = {
        "token_embd.weight": "transformer.wte.weight",
        "blk.2.ffn_up.weight": "transformer.h.2.mlp.fc_in.weight",
        "blk.1.ffn_down.bias": "transformer.h.1.mlp.fc_out.bias",
        "output.bias": "lm_head.bias",
    }
    for ours, theirs in same.items():
        np.testing.assert_array_equal(
            gguf_array(tmp_path / "out.gguf", ours), state[theirs].numpy()
        )
    assert not gguf_array(tmp_path / "out.gguf", "blk.0.attn_output.bias").any()


def test_gptj_export_has_the_same_logits_as_codegen(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "cg")
    report = export_gptj(folder, tmp_path / "gj")
    assert report.path == tmp_path / "gj"
    codegen = AutoModelForCausalLM.from_pretrained(folder)
    gptj = AutoModelForCausalLM.from_pretrained(tmp_path / "gj")
    assert type(gptj).__name__ == "GPTJForCausalLM"
    ids = torch.arange(0, 700, 7)[None]
    with torch.inference_mode():
        assert torch.equal(codegen(ids).logits, gptj(ids).logits)
    assert (tmp_path / "gj" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    # the exported checkpoint converts to the same GGUF tensors
    convert(folder, tmp_path / "a.gguf", dtype="f32")
    convert(tmp_path / "gj", tmp_path / "b.gguf", dtype="f32")
    for t in read_gguf(tmp_path / "a.gguf").tensors:
        np.testing.assert_array_equal(
            gguf_array(tmp_path / "a.gguf", t.name), gguf_array(tmp_path / "b.gguf", t.name)
        )


def test_sharded_and_single_files_give_the_same_gguf(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "one")
    model = AutoModelForCausalLM.from_pretrained(folder)
    sharded = tmp_path / "many"
    model.save_pretrained(sharded, max_shard_size="2MB")
    (sharded / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert len(list(sharded.glob("*.safetensors"))) > 3
    convert(folder, tmp_path / "a.gguf", ConversionOptions(name="x"))
    convert(sharded, tmp_path / "b.gguf", ConversionOptions(name="x"))
    assert model_of(tmp_path / "a.gguf") == model_of(tmp_path / "b.gguf")


def test_bf16_sources_convert(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "cg")
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    state = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    expected = state["transformer.h.0.mlp.fc_in.weight"].float().numpy()
    np.testing.assert_array_equal(
        gguf_array(tmp_path / "out.gguf", "blk.0.ffn_up.weight"), expected
    )


def test_dry_run_writes_nothing(tiny: Path) -> None:
    before = sorted(tiny.iterdir())
    assert "token_embd.weight  F32" in dry_run(tiny, dtype="f32")
    assert sorted(tiny.iterdir()) == before


def test_missing_config_fields_use_the_defaults_of_transformers(tmp_path: Path) -> None:
    """Remove fields that have a default in transformers; a missing n_inner means 4·n_embd."""
    folder = tiny_checkpoint("codegen", tmp_path / "cg")
    config = json.loads((folder / "config.json").read_text())
    for field in ("n_inner", "layer_norm_epsilon", "activation_function", "tie_word_embeddings"):
        config.pop(field, None)
    (folder / "config.json").write_text(json.dumps(config))
    convert(folder, tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").metadata["phi2.feed_forward_length"] == 1024
