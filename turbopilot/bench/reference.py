"""A reference's logits on disk: what they are of, the tokens, and the numbers, in one file.

Three arrays in numpy's format one behind the other: a header (JSON in bytes), the windows (W, n) int32, the raw
logits (P, V) float32, P = W · measured positions. Written from front to back, so that a full disk is an error and not
a signal; read as a memory map, so that not all of it is in memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from turbopilot.base.errors import InvalidInput
from turbopilot.base.kl_divergence import Logits
from turbopilot.bench.windows import Windows

_FORMAT: Final = "turbopilot logits 1"
_HINT: Final = "keep the reference again"
_ROOM: Final = (
    65536  # bytes of the header array and of the windows' descriptions; more than they take
)


@dataclass(frozen=True, slots=True)
class Reference:
    """A model's logits of some text, in a file.

    Attributes:
        path: of the store.
        model: file name of the model.
        model_bytes: its size.
        n_vocab: V, rows of its vocabulary.
        n_windows: W.
        n_window: n, tokens of each.
        first: the first measured position of each.
        llama_cpp: version of llama-cpp-python that computed them.
        n_batch: tokens that were computed at once: other batches round otherwise.
        cache_type: of keys and values.
        text_sha256: of the text.
    """

    path: Path
    model: str
    model_bytes: int
    n_vocab: int
    n_windows: int
    n_window: int
    first: int
    llama_cpp: str
    n_batch: int
    cache_type: str
    text_sha256: str

    @property
    def measured(self) -> range:
        """The measured positions of each window."""
        return range(self.first, self.n_window - 1)

    @property
    def positions(self) -> int:
        """P."""
        return self.n_windows * len(self.measured)


def write_head(file: IO[bytes], reference: Reference, windows: Windows) -> None:
    """Write everything but the logits, whose rows are to follow as float32 in the windows' order."""
    head = json.dumps({"format": _FORMAT, **asdict(reference), "path": ""}).encode()
    np.lib.format.write_array(file, np.frombuffer(head, np.uint8), allow_pickle=False)
    np.lib.format.write_array(file, np.asarray(windows.ids, np.int32), allow_pickle=False)
    shape = (reference.positions, reference.n_vocab)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )


def bytes_needed(positions: int, n_vocab: int) -> int:
    """Return about how large a store gets."""
    return 4 * positions * n_vocab + 8 * positions + _ROOM


def open_reference(path: Path) -> Reference:
    """Read the head of a store.

    Raises:
        InvalidInput: it is absent, damaged, or no store.
    """
    return _opened(path)[0]


def open_logits(path: Path) -> tuple[Reference, Windows, Logits]:
    """Return a store, its windows, and its logits: (P, V), mapped.

    Raises:
        InvalidInput: as `open_reference`.
    """
    reference, ids, offset = _opened(path)
    rows = np.memmap(path, "<f4", "r", offset, (reference.positions, reference.n_vocab))
    return reference, Windows(tuple(map(tuple, ids.tolist())), reference.measured), rows


def _opened(path: Path) -> tuple[Reference, npt.NDArray[np.int32], int]:
    """Return the head, the windows, and the offset of the logits."""
    try:
        with path.open("rb") as file:
            head = json.loads(np.lib.format.read_array(file, allow_pickle=False).tobytes())
            reference = _head(path, head)
            ids = np.lib.format.read_array(file, allow_pickle=False)
            version = np.lib.format.read_magic(file)
            shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint=_HINT) from e
    except (ValueError, TypeError, KeyError, EOFError, RecursionError) as e:
        raise InvalidInput(f"{path}: holds no logits of a reference", hint=_HINT) from e
    wanted = (reference.positions, reference.n_vocab)
    well = (
        version == (1, 0)
        and (shape, fortran, kind) == (wanted, False, np.dtype("<f4"))
        and ids.shape == (reference.n_windows, reference.n_window)
        and 0 <= ids.min(initial=0) <= ids.max(initial=0) < reference.n_vocab
    )
    if not well:
        raise InvalidInput(f"{path}: contradicts itself", hint=_HINT)
    size = offset + 4 * wanted[0] * wanted[1]
    if path.stat().st_size != size:
        raise InvalidInput(
            f"{path}: has {path.stat().st_size:,} bytes instead of {size:,}", hint=_HINT
        )
    return reference, ids, offset


def _head(path: Path, head: Any) -> Reference:
    if not isinstance(head, dict) or head.pop("format", "") != _FORMAT:
        raise ValueError
    kept = Reference(**{**head, "path": path})
    for field in fields(Reference):
        value = getattr(kept, field.name)
        if field.type == "int" and (type(value) is not int or value < 0):
            raise ValueError
    if kept.n_windows < 1 or not kept.measured:
        raise ValueError
    return kept
