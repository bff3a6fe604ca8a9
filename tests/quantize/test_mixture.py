"""Planned types of all file types, compared with llama.cpp's dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantize import RECIPES, Override, QuantizeOptions, Recipe, find_recipe
from quantize.preview import preview_of
from tests.support.quantize_lab import empty_model, planned_by_llama_cpp
from turbopilot.base.errors import QuantizationError
from turbopilot.formats.gguf.file import GgufHeader, read_gguf

Shapes = dict[str, tuple[int, ...]]


def layers(n: int, width: int = 256, kv: int = 256, ffn: int = 512) -> Shapes:
    """Return the matrices of a Llama with `n` layers, in the order in which a converter writes them."""
    found: Shapes = {"token_embd.weight": (300, width), "output_norm.weight": (width,)}
    for i in range(n):
        one: Shapes = {
            "attn_norm.weight": (width,), "attn_q.weight": (width, width), "attn_k.weight": (kv, width),
            "attn_v.weight": (kv, width), "attn_output.weight": (width, width), "ffn_gate.weight": (ffn, width),
            "ffn_up.weight": (ffn, width), "ffn_down.weight": (width, ffn),
        }  # fmt: skip
        found |= {f"blk.{i}.{name}": shape for name, shape in one.items()}
    return found


def experts(n: int, n_layers: int) -> Shapes:
    """Return the matrices of a Llama with `n` experts in each feed-forward layer."""
    found: Shapes = {}
    for name, shape in layers(n_layers).items():
        expert = "ffn_" in name
        found[name.replace(".weight", "_exps.weight") if expert else name] = (
            (n, *shape) if expert else shape
        )
    router = {f"blk.{i}.ffn_gate_inp.weight": (n, 256) for i in range(n_layers)}
    return {**found, **router, "output.weight": (300, 256)}


def latent(n_layers: int) -> Shapes:
    """Return the matrices of a DeepSeek-V2 with 64 experts in all layers but the first."""
    found: Shapes = {"token_embd.weight": (300, 256), "output.weight": (300, 256)}
    for i in range(n_layers):
        one: Shapes = {
            "attn_q.weight": (4 * 96, 256), "attn_kv_a_mqa.weight": (256 + 32, 256), "attn_k_b.weight": (4, 256, 64),
            "attn_v_b.weight": (4, 64, 256), "attn_output.weight": (256, 256),
        }  # fmt: skip
        if i == 0:
            one |= {f"ffn_{part}.weight": (512, 256) for part in ("gate", "up")}
            one |= {"ffn_down.weight": (256, 512)}
        else:
            one |= {f"ffn_{part}_exps.weight": (64, 256, 256) for part in ("gate", "up", "down")}
            one |= {f"ffn_{part}_shexp.weight": (512, 256) for part in ("gate", "up")}
            one |= {"ffn_down_shexp.weight": (256, 512), "ffn_gate_inp.weight": (64, 256)}
        found |= {f"blk.{i}.{name}": shape for name, shape in one.items()}
    return found


def falcon(n: int) -> Shapes:
    found: Shapes = {"token_embd.weight": (300, 256), "output.weight": (300, 256)}
    for i in range(n):
        for name, shape in (
            ("attn_qkv", (384, 256)), ("attn_output", (256, 256)), ("ffn_up", (512, 256)), ("ffn_down", (256, 512)),
        ):  # fmt: skip
            found[f"blk.{i}.{name}.weight"] = shape
    return found


MODELS: dict[str, tuple[str, Shapes, dict[str, int]]] = {
    "tied": ("llama", layers(17), {"block_count": 17}),
    "grouped": (
        "qwen2",
        {**layers(34, kv=64), "output.weight": (300, 256)},
        {"block_count": 34, "attention__head_count": 8, "attention__head_count_kv": 2, "rope__dimension_count": 32},
    ),
    "70B": (
        "llama",
        layers(80, kv=64),
        {"block_count": 80, "attention__head_count": 8, "attention__head_count_kv": 2, "rope__dimension_count": 32},
    ),
    "3 experts": (
        "llama", experts(3, 9), {"block_count": 9, "expert_count": 3, "expert_used_count": 2},
    ),
    "8 experts": (
        "llama", experts(8, 9), {"block_count": 9, "expert_count": 8, "expert_used_count": 2},
    ),
    "128 experts": (
        "qwen3moe", experts(128, 9),
        {
            "block_count": 9, "expert_count": 128, "expert_used_count": 8, "expert_feed_forward_length": 512,
            "attention__head_count": 8, "attention__head_count_kv": 1, "rope__dimension_count": 32,
        },
    ),
    "latent": (
        "deepseek2", latent(9),
        {
            "block_count": 9, "expert_count": 64, "expert_used_count": 6, "expert_feed_forward_length": 256,
            "expert_shared_count": 2, "leading_dense_block_count": 1, "attention__head_count_kv": 1,
            "attention__q_lora_rank": 0, "attention__kv_lora_rank": 256, "attention__key_length": 288,
            "attention__value_length": 256, "attention__key_length_mla": 96, "attention__value_length_mla": 64,
            "rope__dimension_count": 32,
        },
    ),
    "falcon": ("falcon", falcon(18), {"block_count": 18}),
    "rows of 64": ("llama", layers(3, width=64, kv=64, ffn=64), {"block_count": 3}),
    "rows of 48": ("llama", layers(3, width=48, kv=48, ffn=256), {"block_count": 3}),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def header(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GgufHeader:
    architecture, shapes, values = MODELS[request.param]
    path = tmp_path_factory.mktemp("empty") / "empty.gguf"
    return read_gguf(empty_model(path, architecture, shapes, **values))


def same_plan(header: GgufHeader, recipe: Recipe, options: QuantizeOptions) -> bool:
    """Return whether our plan equals llama.cpp's; if llama.cpp refuses, check that we refuse too."""
    theirs = planned_by_llama_cpp(header, recipe, options)
    if theirs is None:
        with pytest.raises(QuantizationError, match=r"row length \d+ is not a multiple"):
            preview_of(header, recipe, options)
        return True
    planned = preview_of(header, recipe, options)
    return [(t.name, t.after, t.wanted) for t in planned.tensors] == theirs


@pytest.mark.parametrize("imatrix", [None, Path("m.gguf")], ids=["alone", "imatrix"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_every_file_type_is_planned_like_llama_cpp(
    header: GgufHeader, recipe: Recipe, imatrix: Path | None
) -> None:
    assert same_plan(header, recipe, QuantizeOptions(imatrix=imatrix))


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(pure=True),
        QuantizeOptions(output_type="Q4_0"),
        QuantizeOptions(output_type="Q5_K", embedding_type="F16"),
        QuantizeOptions(overrides=(Override("ffn_down", "Q6_K"), Override("ffn|attn_v", "F16"))),
        QuantizeOptions(overrides=(Override("token", "Q5_0"),), output_type="Q4_K", pure=True),
    ],
    ids=["pure", "head", "head and embedding", "overrides", "all"],
)
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K_M", "Q3_K_M", "IQ2_M"])
def test_options_are_planned_like_llama_cpp(
    header: GgufHeader, name: str, options: QuantizeOptions
) -> None:
    assert same_plan(header, find_recipe(name), options)
