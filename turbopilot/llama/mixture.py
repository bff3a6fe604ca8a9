"""Rules by which llama.cpp chooses the type of each tensor for a file type, as data.

Source: src/llama-quant.cpp of llama-cpp-python 0.3.36: `tensor_allows_quantization`, `llama_tensor_get_type_impl` and
`tensor_type_fallback`. A test compares every file type with the library.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from turbopilot.formats.ggml_types import BLOCKS, FLOATS

# (part of a name, role): the first part that a name contains decides its role.
_ROLES: Final = (
    ("attn_qkv.weight", "attn_v"), ("attn_kv_b.weight", "attn_v"), ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"), ("attn_q.weight", "attn_q"), ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"), ("ffn_gate", "ffn_gate"), ("ffn_down", "ffn_down"),
)  # fmt: skip
# Tensors whose names contain one of these keep their type: norms, routers, convolutions, positions, small matrices.
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
# Type to use if the row length is not a multiple of the block size; F16 if it does not fit this type either.
_FALLBACK: Final = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
_70B: Final = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}  # layers
_TWO_BITS: Final = "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M"
# Roles, file types, conditions (all must be true), type. The first match wins. "" matches anything; as a type it is the
# base type. Conditions: `Mixture._conditions`.
_RULES: Final = (
    ("head", "", "falcon", "Q8_0"),
    ("head", "", "ragged", "Q8_0"),
    ("head", f"{_TWO_BITS} IQ3_XXS", "", "Q5_K"),
    ("head", "MXFP4_MOE Q8_0", "", "Q8_0"),
    ("head", "", "", "Q6_K"),
    ("", "MXFP4_MOE", "stacked", "MXFP4"),
    ("", "MXFP4_MOE", "", "Q8_0"),
    ("token_embd", "IQ1_S IQ1_M IQ2_XXS IQ2_XS", "", "Q2_K"),
    ("token_embd", "IQ2_S IQ2_M IQ3_XXS", "", "IQ3_S"),
    ("token_embd", "TQ1_0 TQ2_0 Q2_0", "", "Q4_K"),
    ("attn_v", _TWO_BITS, "grouped", "Q4_K"),
    ("attn_v", _TWO_BITS, "experts", "Q4_K"),
    ("attn_v", "IQ2_S IQ2_M", "", "IQ3_S"),
    ("attn_v", _TWO_BITS, "", "Q2_K"),
    ("attn_k", _TWO_BITS, "8_experts", "Q4_K"),
    ("ffn_down", "IQ2_S IQ2_M", "early", "IQ3_S"),
    ("ffn_down", _TWO_BITS, "early", "Q2_K"),
    ("attn_output", _TWO_BITS, "8_experts", "Q5_K"),
    ("attn_output", "IQ1_S IQ1_M", "", "IQ2_XXS"),
    ("attn_output", "IQ2_S IQ2_M", "", "IQ3_S"),
    ("", _TWO_BITS, "", ""),
    ("attn_v attn_k", "", "8_experts", "Q8_0"),
    ("attn_v", "Q2_K Q2_K_S IQ3_XXS IQ3_XS IQ3_S", "grouped", "Q4_K"),
    ("attn_v", "Q2_K", "", "Q3_K"),
    ("attn_v", "IQ3_XXS", "blind", "IQ3_S"),
    ("attn_v", "IQ3_M", "", "Q4_K"),
    ("attn_v", "Q3_K_M", "first_2", "Q5_K"),
    ("attn_v", "Q3_K_M", "", "Q4_K"),
    ("attn_v", "Q3_K_L", "", "Q5_K"),
    ("attn_v", "IQ4_NL IQ4_XS", "grouped", "Q5_K"),
    ("attn_v", "Q4_K_M Q5_K_M", "more", "Q6_K"),
    ("attn_v", "Q4_K_S", "first_4", "Q5_K"),
    ("attn_k attn_q", "IQ3_XS", "", "IQ3_XXS"),
    ("attn_k attn_q", "IQ3_XXS", "", "IQ2_S"),
    ("ffn_down", "Q2_K", "", "Q3_K"),
    ("ffn_down", "Q2_K_S", "early", "Q4_K"),
    ("ffn_down", "IQ3_XXS", "blind early", "Q4_K"),
    ("ffn_down", "IQ3_XXS", "blind", "Q3_K"),
    ("ffn_down", "Q3_K_M", "earliest", "Q5_K"),
    ("ffn_down", "Q3_K_M", "more", "Q4_K"),
    ("ffn_down", "Q3_K_M", "usual", "Q4_K"),
    ("ffn_down", "Q3_K_L", "falcon", "Q4_K"),
    ("ffn_down", "Q3_K_L", "", "Q5_K"),
    ("ffn_down", "IQ3_M", "early", "Q4_K"),
    ("ffn_down", "IQ3_M", "8_experts more", "Q4_K"),
    ("ffn_down", "Q4_K_M", "falcon earliest", "Q6_K"),
    ("ffn_down", "Q4_K_M", "falcon more", "Q5_K"),
    ("ffn_down", "Q4_K_M", "falcon", ""),
    ("ffn_down", "Q4_K_M Q5_K_M", "more", "Q6_K"),
    ("ffn_down", "IQ4_NL IQ4_XS", "blind early", "Q5_K"),
    ("ffn_down", "Q4_K_S", "usual early", "Q5_K"),
    ("ffn_down", "Q4_0", "imatrix early", "Q4_1"),
    ("ffn_down", "Q5_0", "imatrix early", "Q5_1"),
    ("ffn_gate ffn_up", "IQ3_XS", "middle", "IQ3_XXS"),
    ("attn_output", "Q3_K_L", "falcon", "Q4_K"),
    ("attn_output", "", "falcon", ""),
    ("attn_output", "Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M", "8_experts", "Q5_K"),
    ("attn_output", "IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ4_NL IQ4_XS", "8_experts", "Q5_K"),
    ("attn_output", "", "8_experts", ""),
    ("attn_output", "Q2_K", "", "Q3_K"),
    ("attn_output", "IQ3_XXS", "", "IQ3_S"),
    ("attn_output", "Q3_K_M IQ3_M", "", "Q4_K"),
    ("attn_output", "Q3_K_L", "", "Q5_K"),
)


def role_of(name: str) -> str:
    """Return the role of a tensor in the rules; "" if it has none."""
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd"
    if name == "output.weight":
        return "output"
    return next((role for part, role in _ROLES if part in name), "")


def is_quantized(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Return whether llama.cpp quantizes a tensor with this name and shape."""
    kept = _KEPT + (_KEPT_IN_GLM5 if architecture == "glm5-next" else ())
    return (
        any(n > 1 for n in shape[1:])
        and name.endswith("weight")
        and name not in ("position_embd.weight", "token_types.weight")
        and not any(part in name for part in kept)
    )


def fallback(type_name: str, columns: int) -> str:
    """Return the type for rows of `columns` weights.

    Return `type_name` itself if the rows fit, or if llama.cpp has no fallback and refuses.
    """
    other = _FALLBACK.get(type_name, type_name)
    if columns % BLOCKS[type_name][0] == 0 or BLOCKS[other][0] > 32:
        return type_name
    return other if columns % BLOCKS[other][0] == 0 else "F16"


class Mixture:
    """Types of the tensors in one file, to be requested in llama.cpp's order, because some rules count tensors.

    `file_type` is a name such as "Q4_K_M", and `base` is the type of most of its matrices. Sizes that are missing in
    `metadata` are 0.
    """

    def __init__(
        self,
        file_type: str,
        base: str,
        metadata: Mapping[str, object],
        names: Collection[str],
        head_type: str = "",
        imatrix: bool = False,
    ) -> None:
        architecture = str(metadata["general.architecture"])

        def number(key: str, default: int = 0) -> int:
            value = metadata.get(f"{architecture}.{key}", default)
            first = value[0] if isinstance(value, list) and value else value
            return first if isinstance(first, int) else default

        self._base, self._architecture, self._head_type = base, architecture, head_type
        self._two_bits = file_type in _TWO_BITS.split()
        self._rules = [
            (roles.split(), conditions.split(), chosen or base)
            for roles, types, conditions, chosen in _RULES
            if not types or file_type in types.split()
        ]
        self._heads = ("output",) if "output.weight" in names else ("output", "token_embd")
        self._layers, self._experts = number("block_count"), number("expert_count")
        self._n_values = sum(role_of(name) == "attn_v" for name in names)
        self._seen: Counter[str] = Counter()
        heads = number("attention.head_count")
        kv_heads = number("attention.head_count_kv", heads)
        layers = self._layers - number("nextn_predict_layers")
        self._is_70b = _70B.get(architecture) == layers and (
            architecture != "llama" or (heads != kv_heads and self._experts != 8)
        )
        self._always = {
            "falcon" if architecture == "falcon" else "usual",
            "imatrix" if imatrix else "blind",
            "grouped" if kv_heads and heads // kv_heads >= 4 else "",
            "experts" if self._experts >= 4 else "",
            "8_experts" if self._experts == 8 else "",
        }

    def type_of(self, name: str, shape: tuple[int, ...]) -> str:
        """Return the type, before `fallback`, of the next tensor; it must be quantized and have no override."""
        if self._base in FLOATS:
            return self._base
        if self._architecture == "glm5-next" and re.search("attn_q_a|attn_q_b|nextn.eh_proj", name):
            return "Q8_0"
        role = role_of(name)
        if role in self._heads:
            role = "head"
            if self._head_type:
                return self._head_type
        true = self._always | self._conditions(name, shape, role)
        found = next(
            (
                chosen
                for roles, conditions, chosen in self._rules
                if (not roles or role in roles) and true.issuperset(conditions)
            ),
            self._base,
        )
        raised = self._is_70b and role == "attn_v" and not self._two_bits
        return "Q5_K" if raised and found in ("Q3_K", "Q4_K") else found

    def _conditions(self, name: str, shape: tuple[int, ...], role: str) -> set[str]:
        """Return the conditions that are true for a tensor, by its shape and its index within its role or its layer."""
        i, n = self._seen[role], self._n_values if role == "attn_v" else self._layers
        self._seen[role] += 1
        named = re.match(r"blk\.(\d+)", name)
        if role.startswith("ffn") and self._experts > 1 and not self._two_bits and named:
            i = int(named[1])
        true = {
            "first_2": i < 2,
            "first_4": i < 4,
            "earliest": i < n // 16,
            "early": i < n // 8,
            "middle": n // 8 <= i < 7 * n // 8,
            "more": i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2,
            "ragged": shape[0] % BLOCKS[self._base][0] != 0,
            "stacked": any(size > 1 for size in shape[2:3])
            and (self._architecture != "bailingmoe3" or role.startswith("ffn")),
        }
        return {condition for condition, holds in true.items() if holds}
