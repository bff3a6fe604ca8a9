"""The type that llama.cpp gives each tensor of a file type, computed from names, shapes and hyperparameters.

Source: src/llama-quant.cpp of llama.cpp 0.3.36 (llama-cpp-python's number): `tensor_allows_quantization`,
`llama_tensor_get_type_impl` and `tensor_type_fallback`. A test compares every file type with the library.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import Final

from quantize.options import QuantizeOptions
from quantize.recipes import Recipe
from quantize.tensor_types import BLOCKS
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo

_LAYER: Final = re.compile(r"blk\.(\d+)")
# Looked for in this order; a name has the role of the first that it contains.
_ROLES: Final = (
    "attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight", "attn_k.weight", "attn_q.weight", "attn_output.weight",
    "ffn_up", "ffn_gate", "ffn_down",
)  # fmt: skip
_VALUES: Final = ("attn_v", "attn_qkv", "attn_kv_b")
# Parts of names that are left as they are: norms, routers, convolutions, positions, and other small matrices.
_KEPT: Final = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight",
    *(f"time_mix_{x}.weight" for x in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")),
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_KEPT_IN_GLM5: Final = (
    "hc_", "indexer.attn_q_b", "indexer.attn_k", "indexer.proj", "indexer_compressor_gate", "indexer_compressor_ape",
    "ssm_f_a.weight", "ssm_f_b.weight", "ssm_g_a.weight", "ssm_g_b.weight", "ssm_beta.weight", "attn_kv_a_mqa.weight",
    "attn_k_b.weight", "attn_v_b.weight",
)  # fmt: skip
# Where rows are not whole blocks of the type; where they do not fit the second one either, F16.
_FALLBACK: Final = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
# File types of about two bits, which have rules of their own, and those of them that get more.
_TINY: Final = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")
_TINY_PLUS: Final = ("IQ2_S", "IQ2_M")
_EMBEDDING: Final = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"), "Q2_K"),
    **dict.fromkeys(("IQ2_S", "IQ2_M", "IQ3_XXS"), "IQ3_S"),
    **dict.fromkeys(("TQ1_0", "TQ2_0", "Q2_0"), "Q4_K"),
}
_ATTN_OUTPUT: Final = {
    "Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K",
}  # fmt: skip
# With 8 experts attn_output gets Q5_K in these.
_OUTPUT_OF_8_EXPERTS: Final = (
    "Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS",
)  # fmt: skip
_70B: Final = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}  # layers


def role_of(name: str) -> str:
    """What a tensor does, as far as the rules tell tensors apart; "" for all others."""
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd"
    return next((r.removesuffix(".weight") for r in _ROLES if r in name), "")


def is_quantized(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Whether llama.cpp changes the type of such a tensor at all."""
    kept = _KEPT + (_KEPT_IN_GLM5 if architecture == "glm5-next" else ())
    return (
        any(n > 1 for n in shape[1:])
        and name.endswith("weight")
        and name not in ("position_embd.weight", "token_types.weight")
        and not any(part in name for part in kept)
    )


def fallback(type_name: str, columns: int) -> str:
    """The type that rows of so many columns get; `type_name` itself where llama.cpp has none and refuses."""
    other = _FALLBACK.get(type_name, type_name)
    if columns % BLOCKS[type_name][0] == 0 or BLOCKS[other][0] > 32:
        return type_name
    return other if columns % BLOCKS[other][0] == 0 else "F16"


class Mixture:
    """The types of one file, tensor by tensor in llama.cpp's order: some rules count the tensors before.

    Args:
        header: of the source.
        recipe: a file type whose base type is quantized.
        options: whether there is an importance matrix, and the type of the head.
    """

    def __init__(self, header: GgufHeader, recipe: Recipe, options: QuantizeOptions) -> None:
        self._recipe, self._architecture = recipe, header.architecture
        self._imatrix, self._head_type = options.imatrix is not None, options.output_type

        def number(key: str, default: int = 0) -> int:
            value = header.metadata.get(f"{header.architecture}.{key}", default)
            first = value[0] if isinstance(value, list) and value else value
            return first if isinstance(first, int) else default

        self._layers, self._experts = number("block_count"), number("expert_count")
        heads = number("attention.head_count")
        kv_heads = number("attention.head_count_kv", heads)
        self._grouped = kv_heads > 0 and heads // kv_heads >= 4
        layers = self._layers - number("nextn_predict_layers")
        self._is_70b = _70B.get(header.architecture) == layers and (
            header.architecture != "llama" or (heads != kv_heads and self._experts != 8)
        )
        self._falcon = header.architecture == "falcon"
        self._head = {"output"}
        if not any(t.name == "output.weight" for t in header.tensors):
            self._head.add("token_embd")
        self._n_values = sum(role_of(t.name) in _VALUES for t in header.tensors)
        self._seen: Counter[str] = Counter()

    def type_of(self, tensor: TensorInfo) -> str:
        """The type, before `fallback`, of the next tensor that `is_quantized` and that no override names."""
        name, base, recipe = tensor.name, self._recipe.base, self._recipe.name
        role = role_of(name)
        if self._architecture == "glm5-next" and any(
            part in name for part in ("attn_q_a", "attn_q_b", "nextn.eh_proj")
        ):
            return "Q8_0"
        if role in self._head:
            if self._head_type:
                return self._head_type
            if recipe == "MXFP4_MOE" or self._falcon or tensor.shape[0] % BLOCKS[base][0]:
                return "Q8_0"
            if recipe in (*_TINY, "IQ3_XXS"):
                return "Q5_K"
            return base if base == "Q8_0" else "Q6_K"
        if recipe == "MXFP4_MOE":
            ours = self._architecture != "bailingmoe3" or role in ("ffn_up", "ffn_gate", "ffn_down")
            return "MXFP4" if ours and prod(tensor.shape[2:3]) > 1 else "Q8_0"
        if role == "token_embd":
            return _EMBEDDING.get(recipe, base)
        if recipe in _TINY:
            return self._tiny(role)
        if role in _VALUES:
            return self._attn_v()
        if role == "ffn_down":
            return self._ffn_down(self._layer(name, role))
        if role in ("ffn_gate", "ffn_up"):
            i, n = self._layer(name, role), self._layers
            return "IQ3_XXS" if recipe == "IQ3_XS" and n // 8 <= i < 7 * n // 8 else base
        if role in ("attn_k", "attn_q"):
            if role == "attn_k" and self._experts == 8:
                return "Q8_0"
            return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(recipe, base)
        if role == "attn_output":
            return self._attn_output()
        return base

    def _layer(self, name: str, role: str) -> int:
        """Number of the layer: of the tensors of that role so far, or with experts the one in the name."""
        i = self._count(role)
        named = _LAYER.match(name)
        return int(named[1]) if self._experts > 1 and named else i

    def _count(self, role: str) -> int:
        self._seen[role] += 1
        return self._seen[role] - 1

    def _tiny(self, role: str) -> str:
        base, recipe = self._recipe.base, self._recipe.name
        more = "IQ3_S" if recipe in _TINY_PLUS else "Q2_K"
        if role in _VALUES:
            return "Q4_K" if self._grouped or self._experts >= 4 else more
        if role == "attn_k" and self._experts == 8:
            return "Q4_K"
        if role == "ffn_down":
            return more if self._count(role) < self._layers // 8 else base
        if role == "attn_output":
            if self._experts == 8:
                return "Q5_K"
            return {"IQ1_S": "IQ2_XXS", "IQ1_M": "IQ2_XXS"}.get(
                recipe, "IQ3_S" if recipe in _TINY_PLUS else base
            )
        return base

    def _attn_v(self) -> str:
        i, chosen = self._count("attn_v"), self._recipe.base
        match self._recipe.name:
            case "Q2_K":
                chosen = "Q4_K" if self._grouped else "Q3_K"
            case "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if self._grouped:
                chosen = "Q4_K"
            case "IQ3_XXS" if not self._imatrix:
                chosen = "IQ3_S"
            case "IQ3_M":
                chosen = "Q4_K"
            case "Q3_K_M":
                chosen = "Q5_K" if i < 2 else "Q4_K"
            case "Q3_K_L":
                chosen = "Q5_K"
            case "IQ4_NL" | "IQ4_XS" if self._grouped:
                chosen = "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _more_bits(i, self._n_values):
                chosen = "Q6_K"
            case "Q4_K_S" if i < 4:
                chosen = "Q5_K"
        if self._experts == 8:
            return "Q8_0"
        return "Q5_K" if self._is_70b and chosen in ("Q3_K", "Q4_K") else chosen

    def _ffn_down(self, i: int) -> str:
        n, falcon, imatrix = self._layers, self._falcon, self._imatrix
        early, more = i < n // 8, _more_bits(i, n)
        match self._recipe.name:
            case "Q2_K":
                return "Q3_K"
            case "Q2_K_S" if early:
                return "Q4_K"
            case "IQ3_XXS" if not imatrix:
                return "Q4_K" if early else "Q3_K"
            case "Q3_K_M" if i < n // 16:
                return "Q5_K"
            case "Q3_K_M" if not falcon or more:
                return "Q4_K"
            case "Q3_K_L":
                return "Q4_K" if falcon else "Q5_K"
            case "IQ3_M" if early or (self._experts == 8 and more):
                return "Q4_K"
            case "Q4_K_M" if falcon and i >= n // 16:
                return "Q5_K" if more else "Q4_K"
            case "Q4_K_M" if falcon or more:
                return "Q6_K"
            case "Q5_K_M" if more:
                return "Q6_K"
            case "IQ4_NL" | "IQ4_XS" if early and not imatrix:
                return "Q5_K"
            case "Q4_K_S" if early and not falcon:
                return "Q5_K"
            case "Q4_0" | "Q5_0" if early and imatrix:
                return self._recipe.base.replace("_0", "_1")
        return self._recipe.base

    def _attn_output(self) -> str:
        base, recipe = self._recipe.base, self._recipe.name
        if self._falcon:
            return "Q4_K" if recipe == "Q3_K_L" else base
        if self._experts == 8:
            return "Q5_K" if recipe in _OUTPUT_OF_8_EXPERTS else base
        return _ATTN_OUTPUT.get(recipe, base)


def _more_bits(i: int, n: int) -> bool:
    """Whether the i-th of n layers gets more bits: the first and last eighth, and each third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2
