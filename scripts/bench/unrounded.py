"""Rescaling of a dequantized model, so that its weights lie on no quantization grid and its outputs stay the same.

A dequantized file still has the values of its old quantization type. Quantizing it to that type again loses nothing,
and quantizing it to similar types loses too little. Channels between two matrices can be scaled in one and scaled back
in the other: a norm's weights and the columns that read it, a row of ffn_up and a column of ffn_down, a row of attn_v
and the columns of attn_output that read it. The embedding is not rescaled, because the residual stream fixes its scale.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_SPREAD = 0.2  # standard deviation of the factors' logarithms: most lie between 0.8 and 1.25


def unround(source: Path, output: Path, seed: int = 0) -> None:
    """Write a copy of `source`, an F16 GGUF of the llama architecture, with rescaled weights."""
    reader = gguf.GGUFReader(source)
    rng = np.random.default_rng(seed)
    weights: dict[str, Floats] = {
        t.name: np.array(t.data, np.float32).reshape(t.shape[::-1]) for t in reader.tensors
    }

    def number(key: str) -> int:
        return int(reader.fields[f"llama.{key}"].contents())

    n_layer, heads, kv_heads = map(
        number, ("block_count", "attention.head_count", "attention.head_count_kv")
    )

    def factors(n: int) -> Floats:
        return np.exp(_SPREAD * rng.standard_normal(n)).astype(np.float32)

    for i in range(n_layer):
        w = {
            name.split(".")[2]: name
            for name in weights
            if name.startswith(f"blk.{i}.") and name.endswith(".weight")
        }
        for norm, readers in (
            ("attn_norm", ("attn_q", "attn_k", "attn_v")),
            ("ffn_norm", ("ffn_gate", "ffn_up")),
        ):
            s = factors(weights[w[norm]].size)
            weights[w[norm]] *= s
            for one in readers:
                weights[w[one]] /= s
        s = factors(weights[w["ffn_up"]].shape[0])
        weights[w["ffn_up"]] *= s[:, None]
        weights[w["ffn_down"]] /= s
        s = factors(weights[w["attn_v"]].shape[0])
        weights[w["attn_v"]] *= s[:, None]
        # Each key-value head is read by the same number of neighboring heads.
        by_head = np.repeat(s.reshape(kv_heads, -1), heads // kv_heads, axis=0)
        weights[w["attn_output"]] /= by_head.reshape(-1)
    _write(reader, weights, output)


def _write(reader: gguf.GGUFReader, weights: dict[str, Floats], output: Path) -> None:
    writer = gguf.GGUFWriter(output, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for t in reader.tensors:
        dtype = np.float32 if t.tensor_type == gguf.GGMLQuantizationType.F32 else np.float16
        writer.add_tensor(t.name, weights[t.name].astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
