"""CodeGen → a Hugging Face GPT-J checkpoint, for engines that run GPT-J and not CodeGen (vLLM among them).

Knows nothing of GGUF. The weights keep their type and every value; only the fused matrix is taken apart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from converters.checkpoint import Checkpoint
from converters.families import codegen, gptj
from converters.hfconfig import HfConfig
from converters.pipeline import ConversionReport
from converters.plan import PlannedPart, PlannedTensor, plan
from converters.registry import find
from converters.stream import blocks
from turbopilot.atomic import check_disk
from turbopilot.errors import ConversionError, InvalidInput
from turbopilot.progress import Progress, silent

# GPT-J's own fields; everything else in CodeGen's config means nothing to it.
_CONFIG_FIELDS = (
    "activation_function", "attn_pdrop", "bos_token_id", "embd_pdrop", "eos_token_id", "initializer_range",
    "layer_norm_epsilon", "n_embd", "n_head", "n_inner", "n_layer", "n_positions", "resid_pdrop", "rotary_dim",
    "scale_attn_weights", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "dtype", "use_cache", "vocab_size",
)  # fmt: skip
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "added_tokens.json", "generation_config.json",
)  # fmt: skip


def export_gptj(
    source: Path, output: Path, *, force: bool = False, progress: Progress = silent
) -> ConversionReport:
    """Write `output`, a folder that `GPTJForCausalLM.from_pretrained` loads, with logits equal to CodeGen's.

    Raises:
        InvalidInput: `source` is not a CodeGen checkpoint, or `output` exists (without `force`).
        UnsupportedModel, TensorMismatch, CorruptCheckpoint: as for `convert`.
    """
    began = time.monotonic()
    if output.exists() and not force:
        raise InvalidInput(
            f"{output}: exists already",
            hint="name another folder with -o, or replace it with --force",
        )
    if output.exists() and (not output.is_dir() or output.resolve() == source.resolve()):
        raise InvalidInput(
            f"{output}: cannot be replaced by a checkpoint's folder",
            hint="name another folder with -o",
        )
    if output.exists() and any(output.iterdir()) and not (output / "config.json").is_file():
        raise InvalidInput(
            f"{output}: is a folder, but not a checkpoint's; it is left alone",
            hint="name another with -o",
        )
    config = HfConfig.read(source)
    spec = find(config.architectures, config.where)
    if spec is not codegen.SPEC:
        raise InvalidInput(
            f"{config.where}: {spec.architecture} is not CodeGen",
            hint="only CodeGen is rewritten as GPT-J",
        )
    with Checkpoint.open(source) as checkpoint:
        the_plan = plan(
            spec, config, checkpoint.tensors, "F32"
        )  # checks everything; its GGUF tensors are not used
        tensors = _gptj_tensors(
            checkpoint, the_plan.dims.n_layer, lambda part: part.rows and part.rows(the_plan.dims)
        )
        total = sum(t.n_bytes for t in tensors)
        beside = sum(
            (source / n).stat().st_size for n in _TOKENIZER_FILES if (source / n).is_file()
        )
        check_disk(output.resolve().parent, total + beside)
        part_folder = output.with_name(output.name + ".part")
        shutil.rmtree(part_folder, ignore_errors=True)
        try:
            part_folder.mkdir(parents=True)
            _write_safetensors(
                part_folder / "model.safetensors", tensors, checkpoint, force, progress
            )
            (part_folder / "config.json").write_text(
                json.dumps(_config(config.values), indent=2) + "\n", encoding="utf-8"
            )
            for name in _TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, part_folder / name)
            _replace_folder(part_folder, output)
        except OSError as e:
            raise ConversionError(
                f"{output}: cannot be written: {e.strerror}", hint="is there room on the disk?"
            ) from e
        finally:
            shutil.rmtree(part_folder, ignore_errors=True)
    return ConversionReport(
        path=output, architecture=spec.architecture, gguf_architecture=gptj.SPEC.architecture,
        dtype="/".join(sorted({t.dtype for t in tensors})), n_tensors=len(tensors),
        n_weights=sum(t.n_weights for t in tensors), n_bytes=total, n_dropped=len(the_plan.dropped),
        n_tokens=the_plan.dims.n_vocab, pre_tokenizer=spec.tokenizer.pre, has_fim=False,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _gptj_tensors(checkpoint: Checkpoint, n_layer: int, rows_of: Any) -> list[PlannedTensor]:
    """GPT-J's tensors, each whole or as rows of the fused matrix, in their own dtype."""
    tensors = []
    names = [p.source for t in gptj.TENSORS for p in t.parts]
    for name in (
        n.replace("{i}", str(i)) for n in names for i in range(n_layer if "{i}" in n else 1)
    ):
        template = codegen.TO_GPTJ.get(re.sub(r"\.h\.\d+\.", ".h.{i}.", name))
        if template is None:
            source, rows = checkpoint.tensors[name], None
        else:
            layer = name.split(".")[2]
            source, rows = (
                checkpoint.tensors[template.source.replace("{i}", layer)],
                rows_of(template),
            )
        shape = source.shape if rows is None else (len(rows), *source.shape[1:])
        tensors.append(
            PlannedTensor(name, shape, source.dtype, (PlannedPart(source, rows, False),))
        )
    return tensors


def _config(codegen_config: dict[str, Any]) -> dict[str, Any]:
    kept = {k: codegen_config[k] for k in _CONFIG_FIELDS if k in codegen_config}
    return {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", **kept}


def _write_safetensors(
    path: Path,
    tensors: list[PlannedTensor],
    checkpoint: Checkpoint,
    keep_nonfinite: bool,
    progress: Progress,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in tensors:
        header[t.name] = {
            "dtype": t.dtype,
            "shape": list(t.shape),
            "data_offsets": [at, at + t.n_bytes],
        }
        at += t.n_bytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # data begins aligned, as the safetensors package writes it
    done = 0
    with path.open("wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for t in tensors:
            for block in blocks(checkpoint, t, keep_nonfinite=keep_nonfinite):
                f.write(np.ascontiguousarray(block).data)
                done += block.nbytes
                progress(done, at, t.name)
        f.flush()
        os.fsync(f.fileno())


def _replace_folder(new: Path, final: Path) -> None:
    """Folders cannot be renamed over each other: the old one steps aside until the new one is in place."""
    old = final.with_name(final.name + ".old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
