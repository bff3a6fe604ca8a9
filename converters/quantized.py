"""Detection of quantized checkpoints, which are refused: rounded weights cannot be converted faithfully."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from converters.hfconfig import HfConfig
from converters.source_tensor import SourceTensor
from turbopilot.base.errors import UnsupportedModel
from turbopilot.base.quoting import quoted

# Fields of config.json; compressed-tensors used the second before transformers supported it.
_FIELDS = ("quantization_config", "compression_config")

# `quant_method` → its name, and the suffix that quantized repositories add to the original's name.
_METHODS = {
    "gptq": ("GPTQ", "-GPTQ"),
    "awq": ("AWQ", "-AWQ"),
    "bitsandbytes": ("bitsandbytes", "-bnb-4bit"),
    "fp8": ("FP8", "-FP8"),
    "fbgemm_fp8": ("FP8 (FBGEMM)", "-FP8"),
    "compressed-tensors": ("compressed-tensors", "-FP8 or -w4a16"),
}

# Names of tensors that only quantized layers have. The first match wins: only g_idx distinguishes GPTQ from AWQ.
_TENSORS = (
    (r".*\.g_idx", "gptq"),
    (r".*\.(qweight|qzeros|scales)", "awq"),
    (r".*\.weight_(packed|shape|zero_point)", "compressed-tensors"),
    (r".*\.weight_scale(_inv)?", "fp8"),
    (r".*\.(SCB|weight\.(absmax|quant_map|quant_state\..*))", "bitsandbytes"),
)
MAX_METHOD, MAX_NAME = 60, 200  # characters that are shown
_FP8 = ("F8_E4M3", "F8_E5M2")


def refuse_quantized(config: HfConfig, tensors: Mapping[str, SourceTensor]) -> None:
    """Raise UnsupportedModel, which names the method, if the weights are quantized."""
    found = quantized_by(config, tensors)
    if not found:
        return
    name, suffix, evidence = found
    raise UnsupportedModel(
        f"{config.where}: the checkpoint is quantized with {name} ({evidence})",
        hint="its weights are already rounded; convert the original repository (often the same name "
        f"without {suffix}), then: turbopilot quantize",
    )


def quantized_by(
    config: HfConfig, tensors: Mapping[str, SourceTensor]
) -> tuple[str, str, str] | None:
    """Return the method's name, its repository suffix, and the evidence; None if not quantized."""
    found = _by_config(config) or _by_tensors(tensors.values())
    if not found:
        return None
    method, evidence = found
    return *_METHODS.get(method, (method, "-" + method)), evidence


def _by_config(config: HfConfig) -> tuple[str, str] | None:
    for field in _FIELDS:
        value = config.values.get(field)
        if not value:
            continue
        method = value.get("quant_method") if isinstance(value, dict) else None
        if isinstance(method, str):
            # untrusted, and shown on a terminal
            shown = "".join(c if c.isprintable() else "?" for c in method.lower())[:MAX_METHOD]
            return shown, f"{field}.quant_method"
        # early versions of bitsandbytes wrote no quant_method
        of_bits = isinstance(value, dict) and {"load_in_8bit", "load_in_4bit"} & value.keys()
        return "bitsandbytes" if of_bits else "an unknown method", field
    return None


def _by_tensors(tensors: Collection[SourceTensor]) -> tuple[str, str] | None:
    for pattern, method in _TENSORS:
        for t in tensors:
            if re.fullmatch(pattern, t.name):
                return method, f"tensor {quoted(t.name)}"
    for t in tensors:
        if t.dtype in _FP8:
            return "fp8", f"tensor {quoted(t.name)} is {t.dtype}"
    return None
