"""The verb: the file that loses least in so many bytes. Knows nothing of what a process needs beside the weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.fit.allocate import Choice, allocate
from quantize.fit.sensitivity import Sensitivity, find_sensitivity
from quantize.fit.units import CANDIDATES, Unit, units_of
from quantize.imatrix import check_matrix, read_imatrix
from quantize.options import Options
from quantize.preview import Preview
from quantize.quantizer import plan, quantize
from quantize.recipes import RECIPES
from quantize.summary import QuantizeReport
from quantize.tensor_types import FLOATS, Override
from turbopilot.base.errors import QuantizationError
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.formats.gguf.quantization import PREFIX


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which type each matrix gets.

    Attributes:
        types: tensor → type.
        tensor_bytes: of the file, the tensors that are left alone included.
        loss: predicted; see `Sensitivity.loss`.
    """

    types: Mapping[str, str]
    tensor_bytes: int
    loss: float


class Fit:
    """A model that is to be made to fit; first measured, then written.

    Args:
        source: an F32, F16 or BF16 GGUF.
        imatrix: weighs the columns, and opens the types that need one.
        candidates: types to choose from.

    Attributes:
        units: its matrices.
        entries: names of which the matrix tells.

    Raises:
        InvalidInput, CorruptModel: the file cannot be used.
        QuantizationError: it is quantized already, or the matrix is of another model.
    """

    def __init__(
        self, source: Path, imatrix: Path | None = None, candidates: Sequence[str] = CANDIDATES
    ) -> None:
        self.source, self.imatrix = source, imatrix
        self.header = read_gguf(source)
        if (main := self.header.main_type()) not in FLOATS:
            raise QuantizationError(
                f"{source}: is in {main} already; what it lost cannot be measured or won back",
                hint="start from the F16 or F32 file that turbopilot convert wrote",
            )
        self.entries: frozenset[str] = frozenset()
        if imatrix:
            matrix = read_imatrix(imatrix)
            check_matrix(matrix, self.header)
            self.entries = frozenset(matrix.entries)
        preview = plan(source, "Q4_0")
        # Errors are wanted of all types: the plain ones, with which the file is compared, have them too.
        self.units = units_of(preview, CANDIDATES, self.entries)
        self._choices = {
            u.name: [t for t in u.types if t in candidates] or [u.types[-1]] for u in self.units
        }
        moved = {u.name for u in self.units}
        self._fixed = sum(t.bytes_after for t in preview.tensors if t.name not in moved)

    @property
    def smallest(self) -> int:
        """Bytes of the smallest file that can be made."""
        return self._fixed + sum(u.n_bytes(self._choices[u.name][0]) for u in self.units)

    def bits(self, room: int) -> float:
        """Bits per weight that so many bytes leave."""
        return 8 * (room - self._fixed) / max(1, sum(u.n_weights for u in self.units))

    def measure(
        self,
        room: int,
        text: str,
        *,
        seconds: float,
        threads: int = 0,
        n_gpu_layers: int | None = None,
        progress: Progress = silent,
    ) -> Sensitivity:
        """See `sensitivity.find_sensitivity`; `room` says which types are worth looking at."""
        return find_sensitivity(
            self.source, self.units, bits=self.bits(room), text=text, imatrix=self.imatrix, seconds=seconds,
            threads=threads or os.cpu_count() or 1, n_gpu_layers=n_gpu_layers, progress=progress,
        )  # fmt: skip

    def allocate(self, room: int, sensitivity: Sensitivity) -> Allocation | None:
        """The types that cost least in so many bytes of tensors; None where nothing fits."""
        choices = [
            [Choice(u.n_bytes(t), sensitivity.loss(u.name, t)) for t in self._choices[u.name]]
            for u in self.units
        ]
        chosen = allocate(choices, room - self._fixed)
        if chosen is None:
            return None
        types = {u.name: self._choices[u.name][i] for u, i in zip(self.units, chosen, strict=True)}
        used = sum(c[i].n_bytes for c, i in zip(choices, chosen, strict=True))
        loss = sensitivity.total(types)
        assert loss is not None  # all are candidates
        return Allocation(types, self._fixed + used, loss)

    def write(
        self,
        allocation: Allocation,
        output: Path,
        *,
        force: bool = False,
        threads: int = 0,
        memory: Path | None = None,
        notes: Mapping[str, str | int] | None = None,
        progress: Progress = silent,
    ) -> QuantizeReport:
        """Write the file; see `quantize.quantize`. `notes` go into its metadata."""
        extra = {f"{PREFIX}fit.{key}": value for key, value in (notes or {}).items()}
        recipe, options = self._plan(allocation, threads)
        return quantize(
            self.source, output, recipe, options, force=force, memory=memory, extra=extra, progress=progress
        )  # fmt: skip

    def preview(self, allocation: Allocation) -> Preview:
        """What `write` would do with each tensor."""
        return plan(self.source, *self._plan(allocation))

    def _plan(self, allocation: Allocation, threads: int = 0) -> tuple[str, Options]:
        chosen = overrides(self.units, allocation.types)
        recipe = recipe_of(self.units, allocation.types)
        return recipe, Options(overrides=chosen, imatrix=self.imatrix, threads=threads)

    def plain(self, recipe: str, sensitivity: Sensitivity) -> tuple[Preview, float | None]:
        """A plain type beside it: what it takes, and its loss by the same measure, where that is known."""
        preview = plan(self.source, recipe, Options(imatrix=self.imatrix))
        return preview, sensitivity.total({t.name: t.after for t in preview.tensors})


def recipe_of(units: Sequence[Unit], types: Mapping[str, str]) -> str:
    """The file type to be named: the first of those whose base type holds the most bytes."""
    sizes: dict[str, int] = {}
    for u in units:
        kind = types[u.name]
        sizes[kind] = sizes.get(kind, 0) + u.n_bytes(kind)
    quantized = {k: n for k, n in sizes.items() if k not in FLOATS}
    # llama.cpp heeds overrides only where the file's own type is a quantized one.
    main = max(quantized, key=lambda k: quantized[k], default="Q8_0")
    return next(r.name for r in RECIPES if r.base == main)


def overrides(units: Sequence[Unit], types: Mapping[str, str]) -> tuple[Override, ...]:
    r"""One pattern for each role and type: `^blk\.(0|1|7)\.attn_q\.weight$`."""
    layers: dict[tuple[str, str], list[int]] = {}
    for u in units:
        layers.setdefault((u.role, types[u.name]), []).append(u.layer)
    found = []
    for (role, kind), numbers in layers.items():
        name = re.escape(role)
        inside = [str(n) for n in sorted(numbers) if n >= 0]
        if inside:
            name = rf"blk\.({'|'.join(inside)})\.{name}"
        found.append(Override(rf"^{name}\.weight$", kind))
    return tuple(found)
