"""Conversion of PEFT's LoRA adapters to GGUF adapters of llama.cpp."""

from __future__ import annotations

import time
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np

from converters.adapter_config import CONFIG_NAME
from converters.adapter_plan import AdaptedTensor, AdapterPlan, matrices, plan_adapter
from converters.checkpoint import ADAPTER_FORMATS, Checkpoint
from converters.encode import Array, F16Overflow, encode
from converters.pipeline import ConversionReport
from converters.planned import PlannedTensor
from converters.prepare import DEFAULTS, ConversionOptions
from converters.provenance import REPOSITORY, read_provenance
from converters.stream import write_all
from turbopilot.base.atomic import check_disk, check_output, replacing
from turbopilot.base.errors import InvalidInput, TensorMismatch, did_you_mean
from turbopilot.base.file_digest import SourceWatch, file_digests
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.check_adapter import ALPHA_KEY
from turbopilot.formats.gguf.cursor import Value

DTYPES: Final = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_HEADER_BYTES: Final = 1 << 20  # more than the metadata and the names take


def convert_adapter(
    folder: Path,
    base: Path,
    output: Path,
    options: ConversionOptions = DEFAULTS,
    *,
    dtype: str = "",
    progress: Progress = silent,
) -> ConversionReport:
    """Convert a PEFT LoRA adapter to a GGUF adapter.

    Args:
        folder: folder with adapter_config.json and the adapter's weights.
        base: folder with the config.json of the model that it was trained on; no weights are needed.
        output: file to write; on failure it is not created.
        options: `name` and `force` are used.
        dtype: type of the matrices: "f32" (the default), "f16" or "bf16".
        progress: called with bytes done, total bytes and the tensor's name.

    Raises:
        InvalidInput: a path or the dtype is invalid.
        UnsupportedModel: the adapter or the model cannot be converted faithfully.
        TensorMismatch, CorruptCheckpoint: the adapter does not fit the model, or is damaged.
    """
    from converters.writer import ALIGNMENT, header  # imports gguf, only if needed

    began, kind = time.monotonic(), _dtype(dtype)
    watch = SourceWatch([folder])
    with Checkpoint.open(folder, ADAPTER_FORMATS) as checkpoint:
        made = plan_adapter(folder, base, checkpoint.tensors)
        files = sorted({folder / CONFIG_NAME, *(t.path for t in checkpoint.tensors.values())})
        check_output(output, force=options.force, inputs=tuple(files), outside=folder)
        tensors = [t for one in made.adapted for t in one.planned(kind)]
        n_bytes = sum(t.n_bytes for t in tensors)
        check_disk(output.parent, n_bytes + _HEADER_BYTES)
        metadata = _metadata(made, folder, files, options.name or folder.resolve().name)
        done = 0
        with replacing(output) as part, FileIO(part, "w") as out:
            write_all(out, header(made.base.spec.gguf, metadata, tensors, file_type=kind))
            for one in made.adapted:
                for planned, values in zip(
                    one.planned(kind), matrices(one, checkpoint, made.alpha), strict=True
                ):
                    write_all(out, _encoded(values, planned, one))
                    write_all(out, bytes(-planned.n_bytes % ALIGNMENT))
                    done += planned.n_bytes
                    progress(done, n_bytes, planned.name)
            watch.check(files)
    spec = made.base.spec
    return ConversionReport(
        path=output, n_files=1, architecture=f"LoRA adapter of {spec.architecture}", gguf_architecture=spec.gguf,
        dtype=kind, n_tensors=len(tensors), n_weights=sum(t.n_weights for t in tensors),
        n_bytes=output.stat().st_size, n_dropped=0, n_tokens=0, pre_tokenizer="", pre_origin="", has_fim=False,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def adapter_dry_run(folder: Path, base: Path, *, dtype: str = "") -> str:
    """Return the plan of a conversion as text. Raises the same errors as `convert_adapter`."""
    kind = _dtype(dtype)
    with Checkpoint.open(folder, ADAPTER_FORMATS) as checkpoint:
        made = plan_adapter(folder, base, checkpoint.tensors)
    lines = [f"LoRA adapter of {made.base.spec.architecture} → {made.base.spec.gguf}"]
    lines.append(f"{ALPHA_KEY} = {made.alpha:g}")
    for one in made.adapted:
        sources = " + ".join(pair.module for pair in one.pairs.values())
        lines += [f"{t.name}  {t.dtype} {list(t.shape)} ← {sources}" for t in one.planned(kind)]
    return "\n".join(lines) + "\n"


def _encoded(values: Array, planned: PlannedTensor, one: AdaptedTensor) -> Array:
    modules = ", ".join(pair.module for pair in one.pairs.values())
    if not np.isfinite(values).all():
        raise TensorMismatch(
            f"{modules}: {planned.name} contains NaN or infinite values",
            hint="the adapter is damaged or its training diverged",
        )
    try:
        return encode(values, "F32", planned.dtype)
    except F16Overflow as e:
        raise TensorMismatch(
            f"{modules}: {planned.name} has values up to {e.args[0]:.4g}; the maximum of F16 is 65504",
            hint="convert with --dtype bf16 or f32",
        ) from e


def _dtype(dtype: str) -> str:
    if (lower := dtype.lower() or "f32") not in DTYPES:
        raise InvalidInput(f"--dtype {dtype}: not for adapters", hint=did_you_mean(dtype, DTYPES))
    return DTYPES[lower]


def _metadata(made: AdapterPlan, folder: Path, files: list[Path], name: str) -> dict[str, Value]:
    """Return every metadata key except the architecture."""
    origin, base = read_provenance(folder), made.settings.base
    if not origin.base_models and REPOSITORY.fullmatch(base):
        origin = replace(origin, base_models=(base,))
    digests = file_digests(files)
    return {
        "general.type": "adapter",
        "general.name": name,
        **origin.metadata(),
        "turbopilot.source.architecture": made.base.spec.architecture,
        "turbopilot.source.files": list(digests),
        "turbopilot.source.sha256": list(digests.values()),
        "adapter.type": "lora",
        ALPHA_KEY: made.alpha,
    }
