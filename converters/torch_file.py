"""Read what a PyTorch file (.bin) says of its tensors, and leave the weights where they lie. Imports torch.

The file is a zip: a pickle names each tensor, its storage and its place therein, and each storage is an
entry of its own, uncompressed. torch reads the pickle onto the meta device, which has no memory, as
weights only, which runs nothing that the file brings; and what it then says is held against the zip's own
directory. So rows stream from the file as they do from safetensors, and no array passes through torch.

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html (the layout of the zip).
"""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from converters.source_tensor import SourceTensor
from turbopilot.errors import CorruptCheckpoint, InvalidInput, TurboPilotError

# 2.11 is the first that says where a meta tensor's bytes lie in the file (pytorch pull request 170619);
# below 2.10 a hostile pickle could corrupt memory even as weights only (CVE-2026-24747).
LEAST_TORCH = (2, 11)
MAX_DIRECTORY = 16 << 20  # a hundred thousand tensors take 8 MB of it; zipfile takes ten times that
MAX_PICKLE = 100 << 20  # as the header of safetensors

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before 1.6

_DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3",
    "int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint32": "U32",
    "float32": "F32", "int64": "I64", "uint64": "U64", "float64": "F64",
}  # fmt: skip


def read_pickle(path: Path) -> dict[str, SourceTensor]:
    """Every tensor of one PyTorch file, by name.

    Raises:
        InvalidInput: torch is absent or too old, or the file is whole but must be saved anew (written before
            torch 1.6, compressed, big-endian; a tensor that does not lie in one piece).
        CorruptCheckpoint: the file is damaged, its pickle holds something else than tensors by name, or
            wants to run something, which it is not given.
    """
    try:
        with _Frugal(path) as file:
            _check_kind(path, file.read(len(_LEGACY)))
            storages = _storages(path, file)
            file.seek(0)
            state = _load(path, file)
        return {n: _source(path, n, tensor, storages) for n, tensor in _by_name(path, state)}
    except OSError as e:
        raise CorruptCheckpoint(f"{path}: cannot be read: {e}", hint="check the file") from e
    except TurboPilotError:
        raise
    except Exception as e:
        # zipfile, torch's unpickler and the C++ below it each have their own exceptions, and a pickle may
        # hide odd objects in a tensor's attributes: all mean that torch.save did not write this.
        raise _corrupt(path, _reason(e)) from e


class _Frugal(FileIO):
    """A file that refuses to hand zipfile a directory that would fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes")
        return super().read(size) or b""


def _check_kind(path: Path, start: bytes) -> None:
    if start == _LEGACY:
        raise _save_anew(path, "was written by a torch older than 1.6, whose files are not zips")
    if not start.startswith(_ZIP):
        raise _corrupt(path, "it is not a zip, so torch.save did not write it")


def _storages(path: Path, file: FileIO) -> dict[int, int]:
    """Where each entry's data begins in the file → its bytes, by the zip's own directory."""
    size = file.seek(0, os.SEEK_END)
    found: dict[int, int] = {}
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) != len(entries):
            raise _corrupt(path, "an entry of the zip stands twice")
        for entry in entries:
            name = entry.filename.partition("/")[2]  # all lie in one folder of any name
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise _save_anew(path, f"is a zip whose entry {name!r} is compressed")
            file.seek(entry.header_offset)
            head = file.read(30)
            start = entry.header_offset + 30
            start += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            if not head.startswith(_ZIP) or start + entry.compress_size > size:
                raise _corrupt(path, f"entry {name!r} of the zip is not where its directory says")
            if entry.file_size != entry.compress_size:
                raise _corrupt(path, f"entry {name!r} of the zip has two sizes")
            if name == "data.pkl" and entry.file_size > MAX_PICKLE:
                raise _corrupt(path, f"its pickle is {entry.file_size:,} bytes long")
            if name == "byteorder" and archive.open(entry).read(len(b"little")) != b"little":
                raise _save_anew(path, "holds numbers in big-endian order")
            found[start] = entry.file_size
    return found


def _load(path: Path, file: FileIO) -> Any:
    try:
        import torch
    except (ImportError, OSError) as e:
        raise InvalidInput(
            f"{path}: only PyTorch can read this file, and it cannot be imported: {e}",
            hint="pip install 'turbopilot[verify]', or take the repository's safetensors",
        ) from e
    version = str(torch.__version__)
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < LEAST_TORCH:
        least = ".".join(map(str, LEAST_TORCH))
        raise InvalidInput(
            f"{path}: torch {version} cannot read this file safely without loading it whole",
            hint=f"pip install -U 'torch>={least}', or take the repository's safetensors",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd pickle protocol either reads or ends in an error
        # Not mmap: a file larger than memory cannot be mapped so, and on meta nothing would read it.
        return torch.load(file, map_location="meta", weights_only=True, mmap=False)


def _by_name(path: Path, state: Any) -> list[tuple[str, Any]]:
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # as training frameworks save it, beside the optimizer's state
    if not isinstance(state, Mapping):
        raise _corrupt(path, f"it holds one {type(state).__name__}, not tensors by name")
    for name in state:
        if not isinstance(name, str):
            raise _corrupt(path, f"it names a tensor {name!r}, which is no text")
    return list(state.items())


def _source(path: Path, name: str, tensor: Any, storages: Mapping[int, int]) -> SourceTensor:
    """What torch says of a tensor, as far as the zip's directory bears it out."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise _corrupt(path, f"{name!r} is no tensor but {type(tensor).__name__}")
    dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout is not torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}"
        raise _save_anew(path, f"holds {name!r} as {kind}: not plain rows of numbers")
    if not tensor.is_contiguous() or tensor.is_neg():
        raise _save_anew(path, f"holds {name!r} as a view (transposed, say), not in one piece")
    storage: Any = tensor.untyped_storage()
    start = storage._checkpoint_offset
    if type(start) is not int or start not in storages:
        raise _corrupt(path, f"the data of {name!r} is not in the file")
    skipped = int(tensor.storage_offset()) * tensor.element_size()
    source = SourceTensor(name, dtype, tuple(tensor.shape), path, start + skipped)
    # The storage is asked too: a file whose pickle and zip disagree is not to be believed in the rest.
    needed = max(storage.nbytes(), skipped + source.n_bytes)
    if skipped < 0 or needed > storages[start]:
        raise _corrupt(
            path,
            f"tensor {name!r} of shape {source.shape} needs {needed:,} bytes, its storage has {storages[start]:,}",
        )
    return source


def _reason(e: Exception) -> str:
    """Torch's reason in short: its messages run to a page, most of it advice on how to run the file after all."""
    text = str(e)
    if wanted := re.search(r"GLOBAL ([\w.]+)", text):
        return f"its pickle asks for {wanted[1]}, which no weights need; nothing of it was run"
    text = re.sub(
        r"Weights only load failed\..*?(WeightsUnpickler error: |\n\n|$)", "", text, flags=re.S
    )
    first = re.split(r"\.\s|\n", text.strip(), maxsplit=1)[0][:200]
    # What the file says may be in it, and is not let at the terminal.
    printable = "".join(c if c.isprintable() else "?" for c in first)
    return f"torch cannot read it: {type(e).__name__}{printable and ': '}{printable}"


def _corrupt(path: Path, what: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{path}: damaged or hostile PyTorch file: {what}",
        hint="download the checkpoint again, or better its safetensors",
    )


def _save_anew(path: Path, what: str) -> InvalidInput:
    folder = str(path.parent)
    return InvalidInput(
        f"{path}: {what}",
        hint='save it as safetensors: python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained({folder!r}, dtype='auto').save_pretrained({folder!r})\"",
    )
