"""Export of CodeGen as a GPT-J checkpoint, for servers such as vLLM that run GPT-J but not CodeGen.

Types and values of the weights do not change; the family's `exports` split the fused QKV matrix.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.pipeline import ConversionReport
from converters.plan import plan
from converters.provenance import source_files
from converters.registry import find
from converters.scan import Scan
from converters.stream import TensorWriter, write_all
from turbopilot.base.atomic import check_disk, locked_part, part_of, remove_leftovers, sync
from turbopilot.base.errors import ConversionError, InvalidInput
from turbopilot.base.file_digest import SourceWatch
from turbopilot.base.progress import Progress, silent

TARGET = "gptj"
# config fields that CodeGen and GPT-J share
_CONFIG_FIELDS = (
    "activation_function", "attn_pdrop", "bos_token_id", "embd_pdrop", "eos_token_id", "initializer_range",
    "layer_norm_epsilon", "n_embd", "n_head", "n_inner", "n_layer", "n_positions", "resid_pdrop", "rotary_dim",
    "scale_attn_weights", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "dtype", "use_cache", "vocab_size",
)  # fmt: skip


def export_gptj(
    source: Path, output: Path, *, force: bool = False, progress: Progress = silent
) -> ConversionReport:
    """Write a GPT-J checkpoint to the folder `output`; its logits equal CodeGen's.

    Raises:
        InvalidInput: `source` is not a CodeGen checkpoint, or `output` exists (without `force`).
        UnsupportedModel, TensorMismatch, CorruptCheckpoint: as for `convert`.
    """
    began = time.monotonic()
    _check_output(source, output, force)
    watch = SourceWatch([source])
    config = HfConfig.read(source)
    spec = find(config)
    if TARGET not in spec.exports:
        raise InvalidInput(
            f"{config.where}: {spec.architecture} is not CodeGen",
            hint="only CodeGen can be exported as GPT-J",
        )
    spec = replace(spec, tensors=spec.exports[TARGET])
    with Checkpoint.open(source) as checkpoint:
        made = plan(spec, config, checkpoint.tensors, "SOURCE")
        beside = [p for p in source_files(source, []) if p.name != "config.json"]
        needed = made.n_bytes + sum(path.stat().st_size for path in beside)
        check_disk(output.resolve().parent, needed)
        with _replacing_folder(output) as folder:
            with Scan(made.sources, [], keep_nonfinite=force) as scan:
                writer = TensorWriter(checkpoint, made, scan, progress)
                _write_safetensors(folder / "model.safetensors", writer)
            fields = {"architectures": ["GPTJForCausalLM"], "model_type": TARGET}
            fields |= {k: config.values[k] for k in _CONFIG_FIELDS if k in config.values}
            text = json.dumps(fields, indent=2) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")
            for path in beside:
                shutil.copyfile(path, folder / path.name)
            watch.check(source_files(source, sorted({t.path for t in checkpoint.tensors.values()})))
    return ConversionReport(
        path=output, n_files=1, architecture=spec.architecture, gguf_architecture="GPTJForCausalLM",
        dtype=made.main_type, n_tensors=len(made.tensors), n_weights=made.n_weights, n_bytes=made.n_bytes,
        n_dropped=len(made.dropped), n_tokens=made.dims.n_vocab, pre_tokenizer=spec.pre,
        pre_origin="as in the source", has_fim=False, seconds=time.monotonic() - began,
    )  # fmt: skip


def _check_output(source: Path, output: Path, force: bool) -> None:
    if output.resolve() != source.resolve() and output.resolve().is_relative_to(source.resolve()):
        raise InvalidInput(
            f"{output}: is inside the source, {source}", hint="write elsewhere with -o"
        )
    if not output.exists() and not output.is_symlink():
        return
    if not force:
        raise InvalidInput(
            f"{output}: exists already",
            hint="name another folder with -o, or replace it with --force",
        )
    if (
        output.is_symlink()
        or not output.is_dir()
        or source.resolve().is_relative_to(output.resolve())
    ):
        raise InvalidInput(
            f"{output}: cannot be replaced: it contains the source, or is not a folder",
            hint="name another folder with -o",
        )
    if any(output.iterdir()) and not (output / "config.json").is_file():
        raise InvalidInput(
            f"{output}: is a folder without a checkpoint; it was not changed",
            hint="name another folder with -o",
        )


def _write_safetensors(path: Path, writer: TensorWriter) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in writer.plan.tensors:
        place = [at, at := at + t.n_bytes]
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": place}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)  # align the data as the safetensors package does
    with FileIO(path, "w") as out:
        write_all(out, len(raw).to_bytes(8, "little") + raw)
        for t in writer.plan.tensors:
            writer.write(out, t)
        writer.scan.sha256()  # wait until all values are checked


@contextmanager
def _replacing_folder(final: Path) -> Iterator[Path]:
    """Yield a folder next to `final` that replaces it on success and is removed on failure.

    A folder cannot be renamed over a folder with files, so the old one is renamed to NAME.….old first. If it cannot be
    renamed back after a failure, it keeps that name, by which nothing removes it.
    """
    part, old = Path(), part_of(final).with_suffix(".old")
    remove_leftovers(final)
    lock = -1

    def create(new: Path) -> None:
        nonlocal part
        part = new
        new.mkdir(parents=True)

    try:
        lock = locked_part(final, create)
        yield part
        for path in (*part.iterdir(), part):
            sync(path)
        if final.exists():
            final.rename(old)
        try:
            part.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):
            sync(final.parent)
    except OSError as e:
        raise ConversionError(
            f"{final}: cannot be written: {e.strerror}", hint="check the free disk space"
        ) from e
    finally:
        if part.name:
            shutil.rmtree(part, ignore_errors=True)
        if lock >= 0:
            os.close(lock)
