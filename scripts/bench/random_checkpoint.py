"""Random F16 checkpoints for benchmarks, with the geometry of a published CodeGen or with any other tensors.

Weights are copied from one block of random numbers, starting at varying offsets. Drawing seven billion numbers would
take twenty minutes, and no measured step depends on their values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from turbopilot.app.resolve import demo_checkpoint

# n_embd, n_layer, n_head, rotary_dim as published (Salesforce's config.json); "tiny" is for trying a benchmark.
GEOMETRY = {
    "tiny": (256, 2, 4, 32),
    "350M": (1024, 20, 16, 32),
    "2B": (2560, 32, 32, 64),
    "6B": (4096, 33, 16, 64),
}
VOCAB = 51200
POSITIONS = 2048
SHARD_BYTES = 4 << 30
_BLOCK_WEIGHTS = 4 << 20
_STEP = 1_000_003  # a prime, so that offsets in the block do not repeat soon
Shape = tuple[int, ...]


def shapes(n_embd: int, n_layer: int) -> dict[str, Shape]:
    """Return the names and shapes of CodeGen's tensors."""
    d = n_embd
    out: dict[str, Shape] = {"transformer.wte.weight": (VOCAB, d)}
    for i in range(n_layer):
        at = f"transformer.h.{i}."
        out |= {
            at + "ln_1.weight": (d,), at + "ln_1.bias": (d,),
            at + "attn.qkv_proj.weight": (3 * d, d), at + "attn.out_proj.weight": (d, d),
            at + "mlp.fc_in.weight": (4 * d, d), at + "mlp.fc_in.bias": (4 * d,),
            at + "mlp.fc_out.weight": (d, 4 * d), at + "mlp.fc_out.bias": (d,),
        }  # fmt: skip
    head = {"lm_head.weight": (VOCAB, d), "lm_head.bias": (VOCAB,)}
    return out | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)} | head


def n_weights(geometry: str) -> int:
    """Return the number of weights of a geometry."""
    n_embd, n_layer, *_ = GEOMETRY[geometry]
    return sum(int(np.prod(shape)) for shape in shapes(n_embd, n_layer).values())


def make_checkpoint(folder: Path, geometry: str) -> None:
    """Write an F16 checkpoint in shards of at most 4 GiB, with the bundled model's tokenizer."""
    n_embd, n_layer, n_head, rotary = GEOMETRY[geometry]
    folder.mkdir(parents=True)
    config = json.loads((demo_checkpoint() / "config.json").read_text()) | {
        "n_embd": n_embd, "n_layer": n_layer, "n_head": n_head, "rotary_dim": rotary, "vocab_size": VOCAB,
        "n_positions": POSITIONS, "n_ctx": POSITIONS,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(demo_checkpoint() / "tokenizer.json", folder / "tokenizer.json")
    write_weights(folder, shapes(n_embd, n_layer), SHARD_BYTES)


def write_weights(folder: Path, tensors: Mapping[str, Shape], shard_bytes: int) -> None:
    """Write shards of at most `shard_bytes`, and an index if there are several."""
    groups = list(_shards(tensors, shard_bytes))
    block = _random_block()
    index: dict[str, str] = {}
    for i, group in enumerate(groups):
        shard = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        name = shard if len(groups) > 1 else "model.safetensors"
        index |= dict.fromkeys(group, name)
        with (folder / name).open("wb") as f:
            _write_shard(f, group, block)
    if len(groups) > 1:
        total = sum(_size(shape) for shape in tensors.values())
        values = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(values))


def _size(shape: Shape) -> int:
    return 2 * int(np.prod(shape))


def _shards(tensors: Mapping[str, Shape], shard_bytes: int) -> Iterator[dict[str, Shape]]:
    group: dict[str, Shape] = {}
    filled = 0
    for name, shape in tensors.items():
        size = _size(shape)
        if group and filled + size > shard_bytes:
            yield group
            group, filled = {}, 0
        group[name] = shape
        filled += size
    yield group


def _random_block() -> npt.NDArray[np.float16]:
    """Return weights like those of a freshly initialized CodeGen (initializer_range 0.02)."""
    rng = np.random.default_rng(0)
    return (0.02 * rng.standard_normal(_BLOCK_WEIGHTS, np.float32)).astype(np.float16)


def _write_shard(f: BinaryIO, group: Mapping[str, Shape], block: npt.NDArray[np.float16]) -> None:
    header: dict[str, object] = {}
    at = 0
    for name, shape in group.items():
        size = _size(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    f.write(len(raw).to_bytes(8, "little") + raw)
    place = 0
    for name, shape in group.items():
        left = int(np.prod(shape))
        if len(shape) == 1:
            norm = ".ln_" in name and name.endswith("weight")
            f.write(np.full(shape, 1 if norm else 0, np.float16).tobytes())
            continue
        while left:
            part = block[place : place + left]
            f.write(part.data)
            left -= len(part)
            place = (place + _STEP) % _BLOCK_WEIGHTS
