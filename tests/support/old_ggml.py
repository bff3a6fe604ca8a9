"""Writer of the original TurboPilot's ggml `.bin` files, equivalent to ggml's converters of mid 2023.

Source: ggml `examples/{gpt-j,starcoder,gpt-neox}/convert-h*-to-ggml.py` and `quantize.cpp`, reimplemented.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from converters.tokenizer.looks import BYTE_LETTERS

Array = npt.NDArray[Any]
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
# ggml_ftype, the type of the whole file; its numbers of Q8_0 and Q5_x differ from ggml_type's
FTYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}


def token_bytes(folder: Path, n_vocab: int, filler: str | None) -> list[bytes]:
    """Return the tokens as ggml's GPT-J and StarCoder converters wrote them, padded with `filler` or the last token."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    by_row = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    found = []
    for text, _ in by_row:
        raw = bytes(BYTE_LETTERS.index(c) for c in text if c in BYTE_LETTERS)
        found.append(raw or text.encode())
    fill = filler.encode() if filler is not None else found[-1]
    return found + [fill] * (n_vocab - len(found))


def decoded_tokens(folder: Path, n_vocab: int) -> list[bytes]:
    """Return the tokens as ggml's GPT-NeoX converter wrote them: decoded after a dot, without partial characters."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    dot = tokenizer.encode(".", add_special_tokens=False).ids[0]
    return [
        tokenizer.decode([dot, row], skip_special_tokens=False).encode()[1:]
        for row in range(n_vocab)
    ]


def write_old(
    path: Path,
    numbers: Sequence[int],
    dtype: str,
    vocabulary: Sequence[bytes],
    tensors: Mapping[str, Array],
    *,
    repeats_n_vocab: bool = True,
    version: int = 2,
    magic: bytes = b"lmgg",
) -> Path:
    """Write matrices in `dtype`, everything else F32; `numbers` are the hyperparameters without `ftype`."""
    quantized = dtype not in ("F32", "F16")
    ftype = FTYPES[dtype] + (1000 * version if quantized else 0)
    with path.open("wb") as f:
        f.write(magic + struct.pack(f"<{len(numbers) + 1}i", *numbers, ftype))
        if repeats_n_vocab:
            f.write(struct.pack("<i", len(vocabulary)))
        for text in vocabulary:
            f.write(struct.pack("<i", len(text)) + text)
        for name, values in tensors.items():
            kind = dtype if values.ndim == 2 and not name.endswith("wpe") else "F32"
            f.write(struct.pack("<3i", values.ndim, len(name), TYPES[kind]))
            f.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + name.encode())
            f.write(encoded(values, kind).tobytes())
    return path


def encoded(values: Array, dtype: str) -> Array:
    """Return the values in the file's data type."""
    if dtype in ("F32", "F16"):
        return values.astype({"F32": "<f4", "F16": "<f2"}[dtype])
    blocks: Array = quantize(values.astype(np.float32), GGMLQuantizationType[dtype])
    return blocks


def _config(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return values


def _weights(folder: Path, but: str) -> dict[str, Array]:
    tensors = load_file(folder / "model.safetensors")
    return {n: t.astype(np.float32) for n, t in tensors.items() if not re.search(but, n)}


def old_gptj(folder: Path, path: Path, dtype: str, **more: Any) -> Path:
    """Write the old file of a GPT-J checkpoint, or of a CodeGen converted to one."""
    c = _config(folder)
    numbers = [
        c[k] for k in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer", "rotary_dim")
    ]
    vocabulary = token_bytes(folder, c["vocab_size"], "<|endoftext|>")
    return write_old(
        path, numbers, dtype, vocabulary, _weights(folder, r"\.attn\.(masked_)?bias"), **more
    )


def old_starcoder(folder: Path, path: Path, dtype: str, **more: Any) -> Path:
    """Write the old file of a GPTBigCode checkpoint; a single key/value head is repeated for every query head."""
    c = _config(folder)
    numbers = [c[k] for k in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")]
    tensors: dict[str, Array] = {}
    weights = _weights(folder, r"\.attn\.(masked_)?bias")
    weights.setdefault("lm_head.weight", weights["transformer.wte.weight"])  # as in state_dict()
    for name, values in weights.items():
        kind = "b" if name.endswith(".bias") else "g" if re.search(r"\.ln_", name) else "w"
        stem = name.removeprefix("transformer.").rsplit(".", 1)[0].replace(".", "/")
        stem = re.sub(r"^h/(\d+)/", r"h\1/", stem)
        new = f"model/{stem}" if stem in ("wte", "wpe", "lm_head") else f"model/{stem}/{kind}"
        if "c_attn" in name and c.get("multi_query", True):
            d = c["n_embd"] // c["n_head"]
            q, k, v = np.split(values, (c["n_embd"], c["n_embd"] + d))
            copies = [c["n_head"], *[1] * (values.ndim - 1)]
            values = np.concatenate((q, np.tile(k, copies), np.tile(v, copies)))
        tensors[new] = values
    return write_old(
        path, numbers, dtype, token_bytes(folder, c["vocab_size"], None), tensors, **more
    )


def old_neox(
    folder: Path,
    path: Path,
    dtype: str,
    *,
    tokens: Callable[[Path, int], list[bytes]] = decoded_tokens,
    **more: Any,
) -> Path:
    """Write the old file of a GPT-NeoX checkpoint; `tokens` returns the texts of its tokens."""
    c = _config(folder)
    rope = c.get("rope_parameters") or c
    part = rope.get("partial_rotary_factor") or c.get("rotary_pct", 0.25)
    head = c["hidden_size"] // c["num_attention_heads"]
    numbers = [
        c["vocab_size"], c["max_position_embeddings"], c["hidden_size"], c["num_attention_heads"],
        c["num_hidden_layers"], int(part * head), int(c["use_parallel_residual"]),
    ]  # fmt: skip
    weights = _weights(folder, r"\.attention\.(masked_bias|bias|rotary_emb)")
    vocabulary = tokens(folder, c["vocab_size"])
    return write_old(path, numbers, dtype, vocabulary, weights, repeats_n_vocab=False, **more)
