"""Cached artifacts: imported, converted and quantized models, importance matrices.

Each name holds a fingerprint of its source: a changed source makes another file. The cache folder can be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import TurboPilotError
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.base.version import __version__
from turbopilot.formats.gguf.split import siblings

DEFAULT_TEXT = "turbopilot calibration text"
"""Name of the bundled text in a matrix file."""
DEFAULT_CHUNKS = 100
"""Chunks of it to read: more text hardly changes the matrix."""
MATRIX_SECONDS = 600.0
"""Time limit of `--imatrix auto`."""
_DIRECT = ("f32", "f16", "bf16", "q8_0")  # types that the converter writes itself


def beside(source: str, path: Path, suffix: str) -> Path:
    """Return the path of a file made from a model: codegen-f16.gguf → codegen-q4_0.gguf.

    Args:
        source: what was typed; a name, as opposed to a path, puts the file into the current folder.
        path: the model file of that name.
        suffix: "q4_0", "imatrix" …
    """
    if not Path(source).expanduser().is_file():
        return Path(f"{Path(source.partition(':')[0]).name}-{suffix}.gguf")
    stem = path.stem
    if siblings(path):  # the first part of a split model
        stem = stem[: -len("-00001-of-00001")]
    for ending in ("-f16", "-f32", "-bf16"):
        stem = stem.removesuffix(ending)
    return path.with_name(f"{stem}-{suffix}.gguf")


def _fingerprint(*files: Path) -> str:
    """Digest paths, sizes and times; hashing gigabytes at every start would take too long."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def imported(
    old: Path, reporter: Reporter, *, model_type: str = "", tokenizer: Path | None = None
) -> Path:
    """Return the GGUF of an old ggml file, beside it, or in the cache folder if its own folder is read-only."""
    near = old.with_name(old.name + ".gguf")
    elsewhere = cache_folder() / f"{old.stem}-{_fingerprint(old)}.gguf"
    for path in (near, elsewhere):
        if path.is_file() and _is_of(path, old):
            return path
    target = near if os.access(old.parent, os.W_OK) else elsewhere
    from converters import ConversionOptions, convert

    reporter.notify(f"{old} is an old ggml file: importing it once, to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # made from an earlier version of the old file
    with reporter.progress("import") as progress:
        options = ConversionOptions(model_type=model_type, tokenizer=tokenizer)
        report = convert(old, target, options, progress=progress)
    reporter.notify(
        f"imported {size(report.n_bytes)} in {report.seconds:.1f} s: {report.architecture}, "
        f"{report.dtype}, every block as it was"
    )
    return target


def _is_of(path: Path, old: Path) -> bool:
    """Report whether a GGUF was made from this old file, after its last change."""
    from turbopilot.formats.gguf.file import read_gguf

    try:
        made_of = read_gguf(path).metadata.get("turbopilot.source.files")
    except TurboPilotError:
        return False
    return made_of == [old.name] and path.stat().st_mtime_ns >= old.stat().st_mtime_ns


def converted(folder: Path, type_name: str, *, name: str, reporter: Reporter) -> Path:
    """Return a checkpoint as a GGUF in the cache folder; `type_name` is the converter's or the quantizer's."""
    sources = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    stem = f"{name}-{_fingerprint(*sources)}"
    target = cache_folder() / f"{stem}-{type_name.lower()}.gguf"
    if target.is_file():
        return target
    from converters import ConversionOptions, convert

    target.parent.mkdir(parents=True, exist_ok=True)
    is_direct = type_name.lower() in _DIRECT
    whole = target if is_direct else cache_folder() / f"{stem}-f16.gguf"
    kept = whole.is_file()
    if not kept:
        reporter.notify(f"converting {name} to {whole}")
        with reporter.progress("convert") as progress:
            dtype = type_name if is_direct else "f16"
            convert(folder, whole, ConversionOptions(name=name), dtype=dtype, progress=progress)
    if is_direct:
        return target
    from quantize import quantize

    reporter.notify(f"quantizing {name} to {target}")
    try:
        with reporter.progress("quantize") as progress:
            quantize(whole, target, type_name, progress=progress)
    finally:
        if not kept:
            whole.unlink()
    return target


def matrix_file(
    given: str,
    model: Path,
    reporter: Reporter,
    *,
    seconds: float = MATRIX_SECONDS,
    threads: int = 0,
    n_gpu_layers: int | None = None,
) -> Path | None:
    """Return the file that `--imatrix` names; "auto" gathers one over the bundled code, once; "none" or "" is None."""
    if given in ("", "none"):
        return None
    if given != "auto":
        return Path(given).expanduser()
    target = cache_folder() / f"{model.stem}-{_fingerprint(model)}-imatrix.gguf"
    if target.is_file():
        reporter.notify(f"importance matrix: {target}")
        return target
    from quantize.imatrix import GatherOptions, gather
    from turbopilot.corpus import calibration_text

    target.parent.mkdir(parents=True, exist_ok=True)
    reporter.notify(f"gathering an importance matrix, once: {target}")
    options = GatherOptions(
        DEFAULT_TEXT, DEFAULT_CHUNKS, seconds=seconds, threads=threads, n_gpu_layers=n_gpu_layers
    )
    with reporter.progress("imatrix") as progress:
        report = gather(model, target, calibration_text(), options, progress=progress)
    n_tokens = report.n_chunks * report.chunk_size
    reporter.notify(f"gathered from {n_tokens:,} tokens in {report.seconds:.0f} s")
    return target
