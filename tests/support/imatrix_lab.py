"""Helpers for tests of importance matrices: text, a short run, and a handmade mixture of experts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from converters import convert
from quantize.imatrix import GatherOptions, GatherReport, gather
from tests.support.tiny import stdlib_files, tiny_checkpoint
from turbopilot.base.progress import Progress, silent

TEXT = "".join(p.read_text("utf-8", errors="replace") for p in stdlib_files(20_000))
N_EXPERTS, N_USED = 4, 2


def run(
    model: Path,
    output: Path,
    text: str = TEXT,
    *,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> GatherReport:
    options = {"dataset": "code.py", "chunks": 3, "chunk_size": 96, "threads": 1, **options}
    return gather(model, output, text, GatherOptions(**options), force=force, progress=progress)


def mixture(folder: Path) -> Path:
    """Write a tiny random Llama with four feed-forward experts, two of them used for each token."""
    dense = folder / "dense.gguf"
    convert(tiny_checkpoint("llama", folder / "checkpoint"), dense, dtype="f32")
    reader, path = gguf.GGUFReader(dense), folder / "mixture.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    writer.add_expert_count(N_EXPERTS)
    writer.add_expert_used_count(N_USED)
    rng = np.random.default_rng(0)

    def add(name: str, values: Any) -> None:
        writer.add_tensor(name, np.ascontiguousarray(values, np.float32))

    for tensor in reader.tensors:
        values = np.array(tensor.data)
        layer, _, part = tensor.name.removeprefix("blk.").partition(".")
        if not part.startswith("ffn_") or part == "ffn_norm.weight":
            add(tensor.name, values)
            continue
        noisy = [values + 0.05 * rng.standard_normal(values.shape) for _ in range(N_EXPERTS)]
        add(f"blk.{layer}.{part.replace('.weight', '_exps.weight')}", np.stack(noisy))
        if part == "ffn_up.weight":
            add(
                f"blk.{layer}.ffn_gate_inp.weight",
                rng.standard_normal((N_EXPERTS, values.shape[1])),
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    dense.unlink()
    shutil.rmtree(folder / "checkpoint")
    return path
