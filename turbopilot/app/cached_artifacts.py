"""Cached artifacts: imported, converted and quantized models, and importance matrices.

The file name contains a fingerprint of the source, so a changed source gets a new file. The cache folder can be deleted
at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.base.atomic import locked
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import TurboPilotError
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.base.version import __version__
from turbopilot.formats.gguf.split import siblings

if TYPE_CHECKING:
    from quantize.imatrix import GatherOptions

DEFAULT_TEXT = "turbopilot calibration text"
"""Name of the bundled text in an importance matrix file."""
DEFAULT_CHUNKS = 100
"""Default number of chunks to read; more text hardly changes the matrix."""
MATRIX_SECONDS = 600.0
"""Time limit of `--imatrix auto`, in seconds."""
_DIRECT = ("f32", "f16", "bf16", "q8_0")  # types that the converter can write without the quantizer


def beside(source: str, path: Path, suffix: str) -> Path:
    """Return the default output path for a file made from a model: codegen-f16.gguf → codegen-q4_0.gguf.

    Args:
        source: path or name of the model. For a name, the file goes to the current folder; for a path, next to it.
        path: model file of the source.
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
    """Return a digest of paths, sizes and modification times; hashing the contents at every start would be slow."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]


def imported(
    old: Path, reporter: Reporter, *, model_type: str = "", tokenizer: Path | None = None
) -> Path:
    """Return the GGUF of an old ggml file; convert it if needed.

    The GGUF is written next to the old file, or to the cache folder if the old file's folder is read-only.
    """
    near = old.with_name(old.name + ".gguf")
    elsewhere = cache_folder() / f"{old.stem}-{_fingerprint(old)}.gguf"
    target = near if os.access(old.parent, os.W_OK) else elsewhere
    for path in (near, elsewhere):
        if path.is_file() and _is_of(path, old):
            return path
    with _made_once(target, reporter):
        if not (target.is_file() and _is_of(target, old)):
            _import(old, target, reporter, model_type, tokenizer)
    return target


def _import(
    old: Path, target: Path, reporter: Reporter, model_type: str, tokenizer: Path | None
) -> None:
    from converters import ConversionOptions, convert

    reporter.notify(f"{old} is an old ggml file; importing it to {target} (only once)")
    target.unlink(missing_ok=True)  # from an earlier version of the old file
    with reporter.progress("import") as progress:
        options = ConversionOptions(model_type=model_type, tokenizer=tokenizer)
        report = convert(old, target, options, progress=progress)
    reporter.notify(
        f"imported {size(report.n_bytes)} in {report.seconds:.1f} s: {report.architecture}, "
        f"{report.dtype}, weights unchanged"
    )


@contextmanager
def _made_once(target: Path, reporter: Reporter) -> Iterator[None]:
    """Create the artifact's folder, and wait while another process makes the artifact."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(
        target, lambda: reporter.notify(f"waiting for another process that makes {target}")
    ):
        yield


def _is_of(path: Path, old: Path) -> bool:
    """Return whether a GGUF was made from this old file, after the old file's last change."""
    from turbopilot.formats.gguf.file import read_gguf

    try:
        made_of = read_gguf(path).metadata.get("turbopilot.source.files")
    except TurboPilotError:
        return False
    return made_of == [old.name] and path.stat().st_mtime_ns >= old.stat().st_mtime_ns


def converted(folder: Path, type_name: str, *, name: str, reporter: Reporter) -> Path:
    """Return a checkpoint's GGUF file in the cache folder; convert and quantize it if needed.

    `type_name` is a type of the converter or of the quantizer, in any letter case.
    """
    sources = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    stem = f"{name}-{_fingerprint(*sources)}"
    target = cache_folder() / f"{stem}-{type_name.lower()}.gguf"
    # One lock for all types: making a second one must not remove the F16 file that the first one reads.
    whole = target if type_name.lower() in _DIRECT else cache_folder() / f"{stem}-f16.gguf"
    if not target.is_file():
        with _made_once(cache_folder() / stem, reporter):
            if not target.is_file():
                _convert(folder, whole, target, type_name, name, reporter)
    return target


def converted_vocabulary(folder: Path, *, name: str, reporter: Reporter) -> Path:
    """Return a GGUF in the cache folder with a checkpoint's tokenizer and no weights; make it if needed."""
    sources = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    target = cache_folder() / f"{name}-{_fingerprint(*sources)}-vocabulary.gguf"
    with _made_once(target, reporter):
        if not target.is_file():
            from converters import ConversionOptions, convert

            convert(folder, target, ConversionOptions(name=name, vocab_only=True))
    return target


def _convert(
    folder: Path, whole: Path, target: Path, type_name: str, name: str, reporter: Reporter
) -> None:
    """Make `target` from the F16 file `whole`, which is converted if needed and removed afterwards."""
    from converters import ConversionOptions, convert

    kept = whole.is_file()
    if not kept:
        reporter.notify(f"converting {name} to {whole}")
        with reporter.progress("convert") as progress:
            dtype = type_name if whole == target else "f16"
            convert(folder, whole, ConversionOptions(name=name), dtype=dtype, progress=progress)
    if whole == target:
        return
    from quantize import quantize

    reporter.notify(f"quantizing {name} to {target}")
    try:
        with reporter.progress("quantize") as progress:
            quantize(whole, target, type_name, progress=progress)
    finally:
        if not kept:
            whole.unlink()


def matrix_file(
    given: str,
    model: Path,
    reporter: Reporter,
    *,
    seconds: float = MATRIX_SECONDS,
    threads: int = 0,
    n_gpu_layers: int | None = None,
) -> Path | None:
    """Return the importance matrix file of an `--imatrix` value.

    "auto" returns the cached matrix of the model, computed on the bundled code if needed; "none" and "" return None.
    """
    if given in ("", "none"):
        return None
    if given != "auto":
        return Path(given).expanduser()
    target = cache_folder() / f"{model.stem}-{_fingerprint(model)}-imatrix.gguf"
    from quantize.imatrix import GatherOptions

    options = GatherOptions(
        DEFAULT_TEXT, DEFAULT_CHUNKS, seconds=seconds, threads=threads, n_gpu_layers=n_gpu_layers
    )
    with _made_once(target, reporter):
        if target.is_file():
            reporter.notify(f"importance matrix: {target}")
        else:
            _gather(model, target, options, reporter)
    return target


def _gather(model: Path, target: Path, options: GatherOptions, reporter: Reporter) -> None:
    from quantize.imatrix import gather
    from turbopilot.corpus import calibration_text

    reporter.notify(f"computing an importance matrix (only once): {target}")
    with reporter.progress("imatrix") as progress:
        report = gather(model, target, calibration_text(), options, progress=progress)
    n_tokens = report.n_chunks * report.chunk_size
    reporter.notify(f"computed from {n_tokens:,} tokens in {report.seconds:.0f} s")
