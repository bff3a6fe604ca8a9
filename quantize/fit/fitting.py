"""Plan and write the file that loses least in so many bytes of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quantize.fit.allocate import TypeChoice, allocate
from quantize.fit.sensitivity import MeasureOptions, Sensitivity, find_sensitivity
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
    """A float GGUF that is to be made to fit: measured, then written. Its header is read once.

    The importance matrix weighs the columns, and allows the types that need one; `entries` are the names in it.

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
        preview = preview_of(self.header, find_recipe("Q4_0"), QuantizeOptions())
        # Errors are wanted of all types: the plain ones, with which the file is compared, have them too.
        self.units = units_of(preview, CANDIDATES, self.entries)
        self._choices = {
            u.name: [t for t in u.types if t in candidates] or [u.types[-1]] for u in self.units
        }
        self._fixed = sum(t.bytes_after for t in preview.tensors if t.name not in self._choices)

    @property
    def smallest(self) -> int:
        """Bytes of the smallest file that can be made."""
        return self._fixed + sum(u.n_bytes(self._choices[u.name][0]) for u in self.units)

    def measure(
        self, room: int, options: MeasureOptions, progress: Progress = silent
    ) -> Sensitivity:
        """Measure sensitivities; groups are rounded to types near the bits per weight that `room` bytes leave."""
        bits = 8 * (room - self._fixed) / max(1, sum(u.n_weights for u in self.units))
        return find_sensitivity(self.source, self.imatrix, self.units, bits, options, progress)

    def allocate(self, room: int, sensitivity: Sensitivity) -> Allocation | None:
        """The types that cost least in so many bytes of tensors; None where nothing fits."""
        choices = [
            [TypeChoice(u.n_bytes(t), sensitivity.loss(u.name, t)) for t in self._choices[u.name]]
            for u in self.units
        ]
        chosen = allocate(choices, room - self._fixed)
        if chosen is None:
            return None
        picked = [c[i] for c, i in zip(choices, chosen, strict=True)]
        types = {u.name: self._choices[u.name][i] for u, i in zip(self.units, chosen, strict=True)}
        used = self._fixed + sum(c.n_bytes for c in picked)
        return Allocation(types, used, sum(c.loss for c in picked))

    def preview(self, allocation: Allocation) -> Preview:
        """What `write` would do with each tensor."""
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
        """Write the file; see `quantize.quantize`. The allocation decides the types of `options`."""
        recipe, options = self._plan(allocation, options)
        return quantize(self.source, output, recipe.name, options, force=force, progress=progress)

    def _plan(
        self, allocation: Allocation, options: QuantizeOptions
    ) -> tuple[Recipe, QuantizeOptions]:
        recipe = recipe_of(self.units, allocation.types)
        # llama.cpp heeds overrides only where the file's own type is a quantized one.
        chosen = () if recipe.base in FLOATS else overrides(self.units, allocation.types)
        return recipe, replace(options, overrides=chosen, imatrix=self.imatrix)

    def plain(self, recipe: Recipe, sensitivity: Sensitivity) -> tuple[Preview, float | None]:
        """The size of a plain type, and its loss by the same measure, where that is known."""
        preview = preview_of(self.header, recipe, QuantizeOptions(imatrix=self.imatrix))
        return preview, sensitivity.total({t.name: t.after for t in preview.tensors})


def recipe_of(units: Sequence[Unit], types: Mapping[str, str]) -> Recipe:
    """The file type to be named: the first one whose base is the quantized type of most bytes; F16 without one."""
    sizes: dict[str, int] = {}
    for u in units:
        kind = types[u.name]
        if kind not in FLOATS:
            sizes[kind] = sizes.get(kind, 0) + u.n_bytes(kind)
    main = max(sizes, key=lambda k: sizes[k], default="F16")
    return next(r for r in RECIPES if r.base == main)


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
