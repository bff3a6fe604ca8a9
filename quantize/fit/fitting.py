"""Plan and write the file with the smallest loss within a limit of bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.fit.allocate import TypeChoice, allocate
from quantize.fit.sensitivity import MeasureOptions, RoundingSensitivity, find_sensitivity
from quantize.fit.units import CANDIDATES, Unit, units_of
from quantize.imatrix import check_matrix, read_imatrix
from quantize.options import Override, QuantizeOptions
from quantize.preview import Preview, preview_of
from quantize.quantizer import QuantizeReport, quantize
from quantize.recipes import RECIPES, Recipe, find_recipe
from turbopilot.base.errors import QuantizationError
from turbopilot.base.progress import Progress, silent
from turbopilot.formats.ggml_types import FLOATS
from turbopilot.formats.gguf.file import read_gguf


@dataclass(frozen=True, slots=True)
class Allocation:
    """Type of each matrix, size of all tensors of the file, and predicted `RoundingSensitivity.loss`."""

    types: Mapping[str, str]
    tensor_bytes: int
    loss: float


class Fit:
    """A float GGUF to be quantized to a given size.

    The importance matrix weights the columns and makes the types available that need one. `entries` are the tensor
    names in the matrix.
    """

    def __init__(
        self, source: Path, imatrix: Path | None = None, candidates: Sequence[str] = CANDIDATES
    ) -> None:
        self.source, self.imatrix = source, imatrix
        self.header = read_gguf(source)
        if (main := self.header.main_type()) not in FLOATS:
            raise QuantizationError(
                f"{source}: is already quantized to {main}; its quantization loss cannot be measured or undone",
                hint="start from the F16 or F32 file that turbopilot convert wrote",
            )
        self.entries: frozenset[str] = frozenset()
        if imatrix:
            matrix = read_imatrix(imatrix)
            check_matrix(matrix, self.header)
            self.entries = frozenset(matrix.entries)
        preview = preview_of(self.header, find_recipe("Q4_0"), QuantizeOptions())
        # Errors are measured for all types, because the file is also compared with plain types.
        self.units = units_of(preview, CANDIDATES, self.entries)
        self._choices = {
            u.name: [t for t in u.types if t in candidates] or [u.types[-1]] for u in self.units
        }
        fixed = [t for t in preview.tensors if t.name not in self._choices]
        self.fixed_types: Mapping[str, str] = {t.name: t.after for t in fixed}
        """Types of the tensors that are not chosen, by name."""
        self._fixed = sum(t.bytes_after for t in fixed)

    def types_of(self, unit: Unit) -> Sequence[str]:
        """Return the types that a matrix may get, smallest first."""
        return self._choices[unit.name]

    @property
    def smallest(self) -> int:
        """Bytes of all tensors in the smallest possible file."""
        return self._fixed + sum(u.n_bytes(self._choices[u.name][0]) for u in self.units)

    def bits_in(self, room: int) -> float:
        """Return the average bits per weight of matrices that `room` bytes of tensors allow."""
        return 8 * (room - self._fixed) / max(1, sum(u.n_weights for u in self.units))

    def measure(
        self, bits: float, options: MeasureOptions, progress: Progress = silent
    ) -> RoundingSensitivity:
        """Measure sensitivities with types near this number of bits per weight."""
        return find_sensitivity(self.source, self.imatrix, self.units, bits, options, progress)

    def allocate(self, room: int, sensitivity: RoundingSensitivity) -> Allocation | None:
        """Return the types with the smallest loss within `room` bytes of tensors; None if nothing fits."""
        choices = [
            [TypeChoice(u.n_bytes(t), sensitivity.loss(u.name, t)) for t in self._choices[u.name]]
            for u in self.units
        ]
        chosen = allocate(choices, room - self._fixed)
        if chosen is None:
            return None
        types = {u.name: self._choices[u.name][i] for u, i in zip(self.units, chosen, strict=True)}
        return self.allocation(types, sensitivity)

    def allocation(self, types: Mapping[str, str], sensitivity: RoundingSensitivity) -> Allocation:
        """Return the size and the loss of a file whose matrices have these types."""
        used = self._fixed + sum(u.n_bytes(types[u.name]) for u in self.units)
        loss = sum(sensitivity.loss(u.name, types[u.name]) for u in self.units)
        return Allocation(types, used, loss)

    def preview(self, allocation: Allocation) -> Preview:
        """Return the type and size that `write` would give each tensor."""
        recipe, options = self._plan(allocation, QuantizeOptions())
        return replace(preview_of(self.header, recipe, options), name="fitted")

    def write(
        self,
        allocation: Allocation,
        output: Path,
        options: QuantizeOptions = QuantizeOptions(),  # noqa: B008 — frozen
        *,
        force: bool = False,
        progress: Progress = silent,
    ) -> QuantizeReport:
        """Write the file; see `quantize.quantize`. The allocation replaces the overrides of `options`."""
        recipe, options = self._plan(allocation, options)
        return quantize(self.source, output, recipe.name, options, force=force, progress=progress)

    def _plan(
        self, allocation: Allocation, options: QuantizeOptions
    ) -> tuple[Recipe, QuantizeOptions]:
        recipe = recipe_of(self.units, allocation.types)
        # llama.cpp ignores overrides if the file type is a float.
        chosen = () if recipe.base in FLOATS else overrides(self.units, allocation.types)
        return recipe, replace(options, overrides=chosen, imatrix=self.imatrix)

    def plain(
        self, recipe: Recipe, sensitivity: RoundingSensitivity
    ) -> tuple[Preview, float | None]:
        """Return the plan of a plain file type and its loss, measured the same way; None if it is not known."""
        preview = preview_of(self.header, recipe, QuantizeOptions(imatrix=self.imatrix))
        return preview, sensitivity.total({t.name: t.after for t in preview.tensors})


def recipe_of(units: Sequence[Unit], types: Mapping[str, str]) -> Recipe:
    """Return the first file type whose base is the quantized type with the most bytes; F16 if all are floats."""
    sizes: dict[str, int] = {}
    for u in units:
        kind = types[u.name]
        if kind not in FLOATS:
            sizes[kind] = sizes.get(kind, 0) + u.n_bytes(kind)
    main = max(sizes, key=lambda k: sizes[k], default="F16")
    return next(r for r in RECIPES if r.base == main)


def overrides(units: Sequence[Unit], types: Mapping[str, str]) -> tuple[Override, ...]:
    r"""Return an override for each role and type, such as `^blk\.(0|1|7)\.attn_q\.weight$`."""
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
