"""CodeGen → a Hugging Face GPT-J checkpoint, for engines that run GPT-J and not CodeGen (vLLM among them).

Knows nothing of GGUF. The weights keep their type and every value; only the fused matrix is taken apart, as
the family's `exports` say.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.pipeline import ConversionReport
from converters.plan import Plan, plan
from converters.registry import find
from converters.scan import Scan
from converters.stream import write_all, write_tensor
from turbopilot.base.atomic import check_disk
from turbopilot.base.errors import ConversionError, InvalidInput
from turbopilot.base.progress import Progress, silent

TARGET = "gptj"
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
    spec = find(config)
    if TARGET not in spec.exports:
        raise InvalidInput(
            f"{config.where}: {spec.architecture} is not CodeGen",
            hint="only CodeGen is rewritten as GPT-J",
        )
    with Checkpoint.open(source) as checkpoint:
        the_plan = plan(
            replace(spec, tensors=spec.exports[TARGET]), config, checkpoint.tensors, "SOURCE"
        )
        beside = [source / n for n in _TOKENIZER_FILES if (source / n).is_file()]
        needed = the_plan.n_bytes + sum(path.stat().st_size for path in beside)
        check_disk(output.resolve().parent, needed)
        part_folder = output.with_name(output.name + ".part")
        shutil.rmtree(part_folder, ignore_errors=True)
        try:
            part_folder.mkdir(parents=True)
            with Scan(the_plan.sources, [], keep_nonfinite=force) as scan:
                _write_safetensors(
                    part_folder / "model.safetensors", the_plan, checkpoint, scan, progress
                )
            (part_folder / "config.json").write_text(
                json.dumps(_config(config.values), indent=2) + "\n", encoding="utf-8"
            )
            for path in beside:
                shutil.copyfile(path, part_folder / path.name)
            _replace_folder(part_folder, output)
        except OSError as e:
            raise ConversionError(
                f"{output}: cannot be written: {e.strerror}", hint="is there room on the disk?"
            ) from e
        finally:
            shutil.rmtree(part_folder, ignore_errors=True)
    return ConversionReport(
        path=output, n_files=1, architecture=spec.architecture, gguf_architecture="GPTJForCausalLM",
        dtype=the_plan.main_type, n_tensors=len(the_plan.tensors),
        n_weights=sum(t.n_weights for t in the_plan.tensors), n_bytes=the_plan.n_bytes,
        n_dropped=len(the_plan.dropped), n_tokens=the_plan.dims.n_vocab, pre_tokenizer=spec.tokenizer.pre,
        pre_origin="as in the source", has_fim=False, seconds=time.monotonic() - began,
    )  # fmt: skip


def _config(codegen_config: dict[str, Any]) -> dict[str, Any]:
    kept = {k: codegen_config[k] for k in _CONFIG_FIELDS if k in codegen_config}
    return {"architectures": ["GPTJForCausalLM"], "model_type": "gptj", **kept}


def _write_safetensors(
    path: Path, the_plan: Plan, checkpoint: Checkpoint, scan: Scan, progress: Progress
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in the_plan.tensors:
        header[t.name] = {
            "dtype": t.dtype,
            "shape": list(t.shape),
            "data_offsets": [at, at + t.n_bytes],
        }
        at += t.n_bytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # data begins aligned, as the safetensors package writes it
    done = 0

    def wrote(n: int) -> None:
        nonlocal done
        scan.check()
        done += n
        progress(done, at, "model.safetensors")

    with FileIO(path, "w") as out:
        write_all(out, len(raw).to_bytes(8, "little") + raw)
        for t in the_plan.tensors:
            write_tensor(out, checkpoint, t, wrote)
        scan.sha256()  # waits until every value has been looked at
        os.fsync(out.fileno())


def _replace_folder(new: Path, final: Path) -> None:
    """Folders cannot be renamed over each other: the old one steps aside until the new one is in place."""
    old = final.with_name(final.name + ".old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
