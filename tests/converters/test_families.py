"""Families other than CodeGen and GPT-J: variants of their configs, and other layouts of the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import ConversionOptions, convert
from tests.converters.test_converters import model_of
from tests.support.gguf_faults import WEIGHT_FAULTS, faulty
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import verdict
from turbopilot.base.errors import TokenizerMismatch, UnsupportedModel
from turbopilot.formats.gguf.file import read_gguf

PROMPTS = ["def f(x):\n    return x + 12345\n" * 8, "class A:\n\tpass\n" * 10]


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("gptbigcode", {"multi_query": False}),
        ("gptneox", {"use_parallel_residual": False}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("llama", {"head_dim": 48}),
        ("stablelm", {"use_qkv_bias": False, "partial_rotary_factor": 0.5}),
        ("starcoder2", {"tie_word_embeddings": True}),
        ("mistral", {"head_dim": 48, "tie_word_embeddings": True}),
        ("gemma", {"num_key_value_heads": 1}),
        ("granite", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ],
)
def test_config_variants_give_the_logits_of_pytorch(
    tmp_path: Path, family: str, variant: dict[str, Any]
) -> None:
    folder = tiny_checkpoint(family, tmp_path / family, **variant)
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    report = verdict(tmp_path / "out.gguf", folder, PROMPTS)
    assert report.passed, report.failures


@pytest.mark.parametrize(
    ("family", "activation"), [("gptneox", "hidden_act"), ("gptbigcode", "activation_function")]
)
@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_exact_gelu_passes_within_the_error_of_tanh_gelu(
    tmp_path: Path, family: str, activation: str, dtype: str
) -> None:
    exact: dict[str, Any] = {activation: "gelu"}
    folder = tiny_checkpoint(family, tmp_path / family, **exact)
    convert(folder, tmp_path / "out.gguf", dtype=dtype)
    report = verdict(tmp_path / "out.gguf", folder, PROMPTS)
    assert report.passed, report.failures
    assert report.tanh_gelu is not None
    assert 0 < report.tanh_gelu.nmse < 1e-4
    bad = faulty(tmp_path / "out.gguf", tmp_path / "bad.gguf", WEIGHT_FAULTS["ffn_up bias dropped"])
    assert not verdict(bad, folder, PROMPTS).passed


def test_original_santacoder_layout_gives_the_same_gguf(tmp_path: Path) -> None:
    """Write GPTBigCode's weights in `GPT2LMHeadCustomModel`'s layout: q and kv apart, every matrix transposed."""
    bigcode = tiny_checkpoint("gptbigcode", tmp_path / "bigcode", tie_word_embeddings=True)
    santa = tmp_path / "santa"
    santa.mkdir()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(bigcode / "model.safetensors").items():
        d = 256
        if "attn.c_attn" in name:
            q, kv = tensor[:d], tensor[d:]
            state[name.replace("c_attn", "q_attn")] = q.T.contiguous() if q.ndim == 2 else q.clone()
            state[name.replace("c_attn", "kv_attn")] = (
                kv.T.contiguous() if kv.ndim == 2 else kv.clone()
            )
        elif ".h." in name and tensor.ndim == 2:
            state[name] = tensor.T.contiguous()
        else:
            state[name] = tensor
    save_file(state, santa / "model.safetensors")
    config = json.loads((bigcode / "config.json").read_text())
    config |= {"architectures": ["GPT2LMHeadCustomModel"], "attention_head_type": "multiquery"}
    config["activation_function"] = "gelu_fast"
    (santa / "config.json").write_text(json.dumps(config))
    (santa / "tokenizer.json").write_bytes((bigcode / "tokenizer.json").read_bytes())

    convert(bigcode, tmp_path / "a.gguf", dtype="f32")
    convert(santa, tmp_path / "b.gguf", dtype="f32")
    ours, theirs = read_gguf(tmp_path / "b.gguf"), read_gguf(tmp_path / "a.gguf")
    assert [t.name for t in ours.tensors] == [t.name for t in theirs.tensors]
    for a, b in zip(theirs.tensors, ours.tensors, strict=True):
        left = (tmp_path / "a.gguf").read_bytes()[a.offset : a.offset + a.n_bytes]
        right = (tmp_path / "b.gguf").read_bytes()[b.offset : b.offset + b.n_bytes]
        np.testing.assert_array_equal(
            np.frombuffer(left, "<f4"), np.frombuffer(right, "<f4"), a.name
        )
    report = verdict(tmp_path / "b.gguf", santa, PROMPTS)
    assert report.passed, report.failures


def test_names_without_prefix_give_the_same_gguf(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "llama")
    convert(folder, tmp_path / "a.gguf", ConversionOptions(name="x"))
    state = load_file(folder / "model.safetensors")
    save_file({n.removeprefix("model."): t for n, t in state.items()}, folder / "model.safetensors")
    convert(folder, tmp_path / "b.gguf", ConversionOptions(name="x"))
    assert model_of(tmp_path / "a.gguf") == model_of(tmp_path / "b.gguf")


@pytest.mark.parametrize(("family", "graph"), [("starcoder2", "starcoder2"), ("mistral", "llama")])
def test_context_is_limited_to_the_sliding_window(tmp_path: Path, family: str, graph: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / "s", sliding_window=128)
    convert(folder, tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").metadata[f"{graph}.context_length"] == 128


@pytest.mark.parametrize(("named", "context"), [(True, 8192), (False, 4096)])
def test_mistral_without_a_named_window_has_the_window_of_transformers(
    tmp_path: Path, named: bool, context: int
) -> None:
    folder = tiny_checkpoint("mistral", tmp_path / "m", max_position_embeddings=8192)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("sliding_window") is None
    window = {"sliding_window": None} if named else {}
    (folder / "config.json").write_text(json.dumps({**config, **window}))
    convert(folder, tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").metadata["llama.context_length"] == context


@pytest.mark.parametrize(
    ("family", "change", "word"),
    [
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("stablelm", {"use_parallel_residual": True}, "use_parallel_residual"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("starcoder2", {"use_bias": False}, "use_bias"),
        ("gptneox", {"attention_bias": False}, "attention_bias"),
        ("gptbigcode", {"activation_function": "relu"}, "activation_function"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm"),
        ("mistral", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation"),
        ("gemma", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("granite", {"attention_multiplier": 0.0}, "attention_multiplier"),
        ("granite", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"num_key_value_heads": 3}, "3 key/value heads"),
    ],
)
def test_config_values_that_the_graph_lacks_are_refused(
    tmp_path: Path, family: str, change: dict[str, Any], word: str
) -> None:
    folder = tiny_checkpoint(family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    if "rope_scaling" in change:
        config.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UnsupportedModel, match=word):
        convert(folder, tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out.gguf*"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            {"pre_tokenizer": {"type": "Digits", "individual_digits": True}},
            "not one that llama.cpp has",
        ),
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"pre_tokenizer": None}, "not one that llama.cpp has"),
    ],
)
def test_tokenizer_of_unknown_structure_is_refused(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    folder = tiny_checkpoint("gptbigcode", tmp_path / "x")
    data = json.loads((folder / "tokenizer.json").read_text())
    convert(folder, tmp_path / "good.gguf")
    good = read_gguf(tmp_path / "good.gguf").metadata
    assert good["tokenizer.ggml.pre"] == "starcoder"
    assert good["tokenizer.ggml.fim_pre_token_id"] == 700
    (folder / "tokenizer.json").write_text(json.dumps({**data, **change}))
    with pytest.raises(TokenizerMismatch, match=word):
        convert(folder, tmp_path / "out.gguf")
