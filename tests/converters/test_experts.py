"""Mixtures of experts: every layout of the checkpoint gives the same stacks, in constant memory, or a clear error."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from converters import ConversionOptions, convert
from converters.families.experts import experts
from converters.inspect import describe_checkpoint
from converters.plan import plan
from converters.registry import find
from tests.converters.test_converters import gguf_array, model_of
from tests.converters.test_families import PROMPTS
from tests.support.published import published
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import verdict
from turbopilot.base.errors import TensorMismatch, UnsupportedModel
from turbopilot.formats.gguf.file import read_gguf

State = dict[str, torch.Tensor]
EXPERTS = ("qwen3moe", "mixtral", "deepseekv2")


def fused(state: State) -> State:
    """Return the tensors under the names of transformers' classes, with all experts of a layer in one."""
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        if ".experts." not in name:
            found[name.replace("block_sparse_moe.gate", "mlp.gate")] = tensor
            continue
        layer, _, rest = name.replace("block_sparse_moe", "mlp").partition(".experts.")
        e, part = rest.split(".")[:2]
        part = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(part, part)
        found.setdefault(f"{layer}.experts", {})[int(e), part] = tensor
    for name in [n for n in found if n.endswith(".experts")]:
        parts = found.pop(name)
        n = len(parts) // 3
        pairs = (torch.cat([parts[e, "gate_proj"], parts[e, "up_proj"]]) for e in range(n))
        found[f"{name}.gate_up_proj"] = torch.stack(list(pairs))
        found[f"{name}.down_proj"] = torch.stack([parts[e, "down_proj"] for e in range(n)])
    return found


def change(folder: Path, edit: Callable[[State], State]) -> None:
    state = edit(load_file(folder / "model.safetensors"))
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", EXPERTS)
def test_stacks_contain_each_expert_in_order(tmp_path: Path, family: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / family)
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    both = state["model.layers.2.mlp.experts.gate_up_proj"].numpy()
    down = state["model.layers.2.mlp.experts.down_proj"].numpy()
    half = both.shape[1] // 2
    for role, expected in (("gate", both[:, :half]), ("up", both[:, half:]), ("down", down)):
        found = gguf_array(tmp_path / "out.gguf", f"blk.2.ffn_{role}_exps.weight")
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("family", EXPERTS)
def test_fused_experts_give_the_same_gguf(tmp_path: Path, family: str) -> None:
    folder = tiny_checkpoint(family, tmp_path / family)
    convert(folder, tmp_path / "a.gguf", ConversionOptions(name="x"))
    assert any(".experts.3." in name for name in load_file(folder / "model.safetensors"))
    change(folder, fused)
    assert not any(".experts.3." in name for name in load_file(folder / "model.safetensors"))
    convert(folder, tmp_path / "b.gguf", ConversionOptions(name="x"))
    assert model_of(tmp_path / "a.gguf") == model_of(tmp_path / "b.gguf")
    report = verdict(tmp_path / "b.gguf", folder, PROMPTS)
    assert report.passed, report.failures


def test_experts_spread_over_shards_give_the_same_gguf(tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3moe", tmp_path / "one")
    many = tmp_path / "many"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(many, max_shard_size="1MB")
    (many / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    shards = json.loads((many / "model.safetensors.index.json").read_text())["weight_map"]
    assert len({shard for name, shard in shards.items() if ".0.mlp.experts." in name}) > 1
    convert(folder, tmp_path / "a.gguf", ConversionOptions(name="x"))
    convert(many, tmp_path / "b.gguf", ConversionOptions(name="x"))
    assert model_of(tmp_path / "a.gguf") == model_of(tmp_path / "b.gguf")


@pytest.mark.parametrize("family", ["qwen3moe", "deepseekv2"])
def test_memory_does_not_grow_with_the_number_of_experts(tmp_path: Path, family: str) -> None:
    peaks = []
    count = "n_routed_experts" if family == "deepseekv2" else "num_experts"
    for n in (4, 48):
        values: dict[str, Any] = {count: n, "num_hidden_layers": 2, "moe_intermediate_size": 512}
        folder = tiny_checkpoint(family, tmp_path / str(n), **values)
        tracemalloc.start()
        convert(folder, tmp_path / f"{n}.gguf")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    header = read_gguf(tmp_path / "48.gguf")
    stack = next(t for t in header.tensors if t.name == "blk.1.ffn_up_exps.weight")
    assert stack.shape == (256, 512, 48)
    assert peaks[1] - peaks[0] < stack.n_bytes / 4


def test_router_stays_f32(tmp_path: Path) -> None:
    folder = tiny_checkpoint("qwen3moe", tmp_path / "m", dtype="f16")
    for dtype in ("f16", "q8_0", "auto"):
        convert(folder, tmp_path / f"{dtype}.gguf", dtype=dtype)
        types = {t.name: t.type_name for t in read_gguf(tmp_path / f"{dtype}.gguf").tensors}
        assert types["blk.0.ffn_gate_inp.weight"] == "F32"
        assert types["blk.0.ffn_up_exps.weight"] == ("Q8_0" if dtype == "q8_0" else "F16")


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n != name}


def with_one_more(state: State) -> State:
    more = {n.replace("experts.7", "experts.8"): t for n, t in state.items() if "experts.7" in n}
    return state | {name: tensor.clone() for name, tensor in more.items()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            without("model.layers.1.mlp.experts.5.up_proj.weight"),
            r"missing: model\.layers\.1\.mlp\.experts\.5\.up_proj\.weight",
        ),
        (with_one_more, r"unknown: model\.layers\.0\.mlp\.experts\.8\."),
        (
            lambda state: fused(state) | {"model.layers.0.mlp.experts.down_proj": torch.ones(8, 9)},
            r"misshapen: model\.layers\.0\.mlp\.experts\.down_proj is \(8, 9\)",
        ),
        (
            lambda state: (
                fused(state) | {n: t for n, t in state.items() if ".0.mlp.experts.2." in n}
            ),
            r"missing: model\.layers\.0\.mlp\.experts\.0\.gate_proj\.weight",
        ),
    ],
)
def test_missing_and_surplus_experts_are_named(
    tmp_path: Path, edit: Callable[[State], State], words: str
) -> None:
    folder = tiny_checkpoint("qwen3moe", tmp_path / "m")
    change(folder, edit)
    with pytest.raises(TensorMismatch, match=words):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "32 of 64 dimensions are rotated"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("qwen3moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("qwen3moe", {"num_experts_per_tok": 9}, "9 of 8 experts"),
        ("qwen3moe", {"num_local_experts": 10**6}, "num_local_experts"),
        ("mixtral", {"sliding_window": 4096}, "sliding_window"),
        ("deepseekv2", {"topk_method": "group_limited_greedy"}, "topk_method"),
        ("deepseekv2", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("deepseekv2", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("deepseekv2", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("deepseekv2", {"num_key_value_heads": 4}, "4 key/value heads"),
        ("deepseekv2", {"q_lora_rank": 64, "num_hidden_layers": 27}, "q_lora_rank"),
    ],
)
def test_values_that_the_graph_lacks_are_refused(
    tmp_path: Path, family: str, values: dict[str, Any], words: str
) -> None:
    folder = tiny_checkpoint(family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    if "num_local_experts" in values:
        config.pop("num_experts", None)
    if "partial_rotary_factor" in values:
        config["rope_parameters"].pop("partial_rotary_factor", None)
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(UnsupportedModel, match=words):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mscale": 1.0}, "mscale differs"),
        ({"mscale_all_dim": None}, "mscale_all_dim is missing"),
        ({"beta_fast": 16}, "beta_fast"),
        ({"attention_factor": 1.2}, "attention_factor"),
        ({"original_max_position_embeddings": None}, "original_max_position_embeddings"),
        ({"rope_type": "linear"}, 'rope type is "linear"'),
    ],
)
def test_other_forms_of_yarn_are_refused(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    folder = tiny_checkpoint("deepseekv2", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= values
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=words):
        convert(folder, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 8}),
        ("qwen3", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("qwen3moe", {"num_experts": 16, "num_experts_per_tok": 8, "tie_word_embeddings": True}),
        ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3, "head_dim": 48}),
        ("deepseekv2", {"q_lora_rank": 96, "first_k_dense_replace": 0, "n_shared_experts": 1}),
        ("deepseekv2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
        ("deepseekv2", {"routed_scaling_factor": 2.5, "first_k_dense_replace": 2}),
    ],
)
def test_config_variants_give_the_logits_of_pytorch(
    tmp_path: Path, family: str, variant: dict[str, Any]
) -> None:
    folder = tiny_checkpoint(family, tmp_path / family, **variant)
    convert(folder, tmp_path / "out.gguf", dtype="f32")
    report = verdict(tmp_path / "out.gguf", folder, PROMPTS)
    assert report.passed, report.failures
    assert report.metrics is not None
    assert report.metrics.nmse < 1e-9


def test_description_shows_yarn_and_converts(tmp_path: Path) -> None:
    found = describe_checkpoint(tiny_checkpoint("deepseekv2", tmp_path / "m"))
    assert found.convertible, found.reason
    assert (found.shape.rope_scaling, found.shape.rope_factor) == ("yarn", 8.0)


def test_published_plan_has_a_part_for_each_expert() -> None:
    model = published("Qwen3-Coder-30B-A3B")
    made = plan(find(model.config), model.config, model.sources, "F16")
    stack = next(t for t in made.tensors if t.name == "blk.47.ffn_down_exps.weight")
    assert stack.shape == (128, 2048, 768)
    names = [f"model.layers.47.mlp.experts.{e}.down_proj.weight" for e in range(128)]
    assert [part.source.name for part in stack.parts] == names


def test_experts_are_a_rule_of_the_family() -> None:
    """Check that stacks are data of a family, and that the engine has no word for experts."""
    for name in ("plan.py", "stream.py", "writer.py", "encode.py"):
        text = (Path(find.__code__.co_filename).parent / name).read_text("utf-8")
        assert "expert" not in text, name
    stacks = [t for t in experts("a.", "b.") if t.name.endswith("_exps.weight")]
    assert [t.shape[0] for t in stacks] == ["E", "E", "E"]
