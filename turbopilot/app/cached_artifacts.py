"""Files that one verb makes on the way to another and keeps: imported, converted and quantized models.

Each is made once, under a name that says what it was made from; a source that changes makes another. What
is in the cache folder can be deleted at any time: it is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from turbopilot.base.errors import TurboPilotError
from turbopilot.base.version import __version__
from turbopilot.formats.gguf.split import siblings
from turbopilot.render import console

Notify = Callable[[str], None]
DEFAULT_TEXT = "turbopilot calibration text"
"""The name of what comes with the program, in a matrix's file."""
DEFAULT_CHUNKS = 100
"""Chunks of it that are read: enough for a matrix that more text hardly changes, few enough for a person's patience."""


def cache_folder() -> Path:
    """Where files that can be made again are kept: $TURBOPILOT_CACHE, or the user's cache folder."""
    if explicit := os.environ.get("TURBOPILOT_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    )
    return Path(base or Path.home() / ".cache") / "turbopilot"


def beside(source: str, path: Path, suffix: str) -> Path:
    """Where something made of a model goes: codegen-f16.gguf → codegen-q4_0.gguf in its folder, a name's in this one.

    Args:
        source: what the person typed.
        path: the GGUF that it is.
        suffix: of the name, as "q4_0" or "imatrix".
    """
    if not Path(source).expanduser().is_file():
        return Path(f"{Path(source.partition(':')[0]).name}-{suffix}.gguf")
    stem = path.stem
    if siblings(path):  # the first part of a split model
        stem = stem[: -len("-00001-of-00001")]
    for ending in ("-f16", "-f32", "-bf16"):
        stem = stem.removesuffix(ending)
    return path.with_name(f"{stem}-{suffix}.gguf")


def fingerprint(*files: Path) -> str:
    """Changes where a file does: of paths, sizes and times, since hashing gigabytes at every start would be felt."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def imported(
    old: Path, *, model_type: str = "", tokenizer: Path | None = None, notify: Notify
) -> Path:
    """The GGUF of an old ggml file, beside it, or in the cache folder where that cannot be written.

    Raises:
        TurboPilotError: see `converters.convert`.
    """
    beside = old.with_name(old.name + ".gguf")
    elsewhere = cache_folder() / f"{old.stem}-{fingerprint(old)}.gguf"
    for path in (beside, elsewhere):
        if path.is_file() and _is_of(path, old):
            return path
    target = beside if os.access(old.parent, os.W_OK) else elsewhere
    from converters import ConversionOptions, convert

    notify(f"{old} is an old ggml file: importing it once, to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # made of what the old file was before
    with console.progress("import") as progress:
        options = ConversionOptions(model_type=model_type, tokenizer=tokenizer)
        report = convert(old, target, options, progress=progress)
    notify(
        f"imported {console.size(report.n_bytes)} in {report.seconds:.1f} s: {report.architecture}, "
        f"{report.dtype}, every block as it was"
    )
    return target


def _is_of(path: Path, old: Path) -> bool:
    """Whether a file was made of this old one, since that was last written."""
    from turbopilot.formats.gguf.file import read_gguf

    try:
        made_of = read_gguf(path).metadata.get("turbopilot.source.files")
    except TurboPilotError:
        return False
    return made_of == [old.name] and path.stat().st_mtime_ns >= old.stat().st_mtime_ns


def converted(folder: Path, type_name: str, *, name: str, notify: Notify) -> Path:
    """A checkpoint as a GGUF of a type, in the cache folder.

    Args:
        folder: of the checkpoint.
        type_name: F16, Q8_0, or any of the quantizer's.
        name: what the file is called by.
        notify: hears what is made, before it is.

    Raises:
        TurboPilotError: see `converters.convert` and `quantize.quantize`.
    """
    sources = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    stem = f"{name}-{fingerprint(*sources)}"
    target = cache_folder() / f"{stem}-{type_name.lower()}.gguf"
    if target.is_file():
        return target
    from converters import ConversionOptions, convert

    target.parent.mkdir(parents=True, exist_ok=True)
    direct = type_name.lower() in ("f32", "f16", "bf16", "q8_0")
    whole = target if direct else cache_folder() / f"{stem}-f16.gguf"
    kept = whole.is_file()
    if not kept:
        notify(f"converting {name} to {whole}")
        with console.progress("convert") as progress:
            dtype = type_name if direct else "f16"
            convert(folder, whole, ConversionOptions(name=name), dtype=dtype, progress=progress)
    if direct:
        return target
    from quantize import quantize

    notify(f"quantizing {name} to {target}")
    try:
        with console.progress("quantize") as progress:
            quantize(whole, target, type_name, progress=progress)
    finally:
        if not kept:
            whole.unlink()
    return target


def gathered(
    model: Path,
    *,
    seconds: float = 0,
    threads: int = 0,
    n_gpu_layers: int | None = None,
    notify: Notify = console.info,
) -> Path:
    """An importance matrix of a model over the bundled code, in the cache folder.

    Args:
        model: the GGUF.
        seconds: stop after about so long; 0 for all of the default's chunks.
        threads: 0 means all cores.
        n_gpu_layers: layers on the GPU; None is all where there is one.
        notify: hears what is made, before it is.

    Raises:
        TurboPilotError: see `quantize.imatrix.gather`.
    """
    target = cache_folder() / f"{model.stem}-{fingerprint(model)}-imatrix.gguf"
    if target.is_file():
        notify(f"importance matrix: {target}")
        return target
    from quantize.imatrix import gather
    from turbopilot.corpus import calibration_text

    target.parent.mkdir(parents=True, exist_ok=True)
    notify(f"gathering an importance matrix, once: {target}")
    with console.progress("imatrix") as progress:
        report = gather(
            model, target, calibration_text(), dataset=DEFAULT_TEXT, chunks=DEFAULT_CHUNKS, seconds=seconds,
            threads=threads, n_gpu_layers=n_gpu_layers, progress=progress,
        )  # fmt: skip
    notify(
        f"gathered from {report.n_chunks * report.chunk_size:,} tokens in {report.seconds:.0f} s"
    )
    return target
