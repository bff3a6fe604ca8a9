"""Choose the types of a file that is served from devices, within the limits of their memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from quantize.fit.allocate import TypeChoice, allocate_within
from quantize.fit.device_limits import UNLIMITED, DeviceLimits, with_types
from quantize.fit.fitting import Allocation, Fit
from quantize.fit.sensitivity import RoundingSensitivity
from quantize.fit.units import Unit
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.device_memory import INPUT_TENSORS, compiled_pattern
from turbopilot.llama.geometry import header_geometry
from turbopilot.llama.placement import CPU

_STEPS: Final = 4096  # the search ends if a step is less than this part of the devices' memory
_CORRECTIONS: Final = 4
# Without a limit for the whole server, tensors in main memory get at most this type: larger ones gain nothing there.
_MOST_OUTSIDE: Final = "Q8_0"


class DeviceFit:
    """A file to be fitted into the memory of devices.

    Attributes:
        fit: the source, and the types to choose from.
        limits: what the file may take.
        smallest: the smallest type of each matrix.
    """

    def __init__(self, fit: Fit, limits: DeviceLimits) -> None:
        self.fit, self.limits = fit, limits
        self.smallest = {u.name: fit.types_of(u)[0] for u in fit.units}
        placement = self.limits.placement(self.header(self.smallest))
        n_host_layers, has_head = len(placement.cpu.layers), placement.n_gpu_layers > 0
        is_tied = has_head and header_geometry(fit.header).tied
        overrides = [(compiled_pattern(p), device) for p, device in limits.wish.tensor_overrides]
        self._inside: dict[str, bool] = {}  # whether a matrix is on a device
        self._copies: dict[str, int] = {}  # how often it is in memory
        for u in fit.units:
            is_copied = (
                is_tied and u.role == "token_embd"
            )  # a device gets a copy as the output head
            is_inside = u.layer >= n_host_layers if u.layer >= 0 else has_head
            if u.name.startswith(INPUT_TENSORS):
                is_inside = is_copied
            pinned = next((device for p, device in overrides if p.search(u.name)), None)
            if pinned is not None:
                is_inside, is_copied = pinned.lower() != CPU.lower(), False
            self._inside[u.name], self._copies[u.name] = is_inside, 1 + is_copied
        # Bytes of the server that are not matrices.
        self._overhead = limits.server_bytes(placement) - self._bytes(self.smallest)
        room = sum(limits.sizes) - sum(s.kv + s.compute for s in placement.shares)
        n_inside = sum(u.n_weights for u in fit.units if self._inside[u.name])
        n_all = sum(u.n_weights * self._copies[u.name] for u in fit.units)
        total = UNLIMITED if limits.total is None else limits.total - self._overhead
        self.bits = 8 * min(room / max(1, n_inside), total / max(1, n_all))
        """About how many bits per weight the limits allow."""

    def header(self, types: Mapping[str, str]) -> GgufHeader:
        """Return the header of the file in which the matrices have these types."""
        return with_types(self.fit.header, {**self.fit.fixed_types, **types})

    def allocate(self, sensitivity: RoundingSensitivity) -> Allocation | None:
        """Return the types with the smallest loss within the limits; None if even the smallest file exceeds them."""
        if not self.limits.holds(self.header(self.smallest)):
            return None
        choices = {u.name: self._choices(u, sensitivity) for u in self.fit.units}
        found: Mapping[str, str] = self.smallest
        low, high = self._bytes(self.smallest, of_devices=True), sum(self.limits.sizes)
        while high - low > max(1, sum(self.limits.sizes) // _STEPS):
            middle = (low + high) // 2
            if types := self._within(middle, choices):
                low, found = middle, types
            else:
                high = middle
        return self.fit.allocation(found, sensitivity)

    def _within(
        self, room_inside: int, choices: Mapping[str, Sequence[TypeChoice]]
    ) -> dict[str, str] | None:
        """Return types with at most this many bytes of matrices on devices; None if they exceed a limit."""
        limits, units = self.limits, self.fit.units
        room = UNLIMITED if limits.total is None else limits.total - self._overhead
        inside = [choices[u.name] if self._inside[u.name] else None for u in units]
        everywhere = [
            [TypeChoice(self._copies[u.name] * c.n_bytes, c.loss) for c in choices[u.name]]
            for u in units
        ]
        for _ in range(_CORRECTIONS):
            chosen = allocate_within(everywhere, inside, room, room_inside)
            if chosen is None:
                return None
            types = {u.name: self.fit.types_of(u)[i] for u, i in zip(units, chosen, strict=True)}
            placement = limits.placement(self.header(types))
            if not (over := limits.over(placement)):
                return types if placement.fits else None
            room -= over  # larger matrices need larger buffers
        return None

    def _choices(self, unit: Unit, sensitivity: RoundingSensitivity) -> list[TypeChoice]:
        """Return the choices of a matrix, in the order of its types."""
        types = self.fit.types_of(unit)
        if not self._inside[unit.name] and self.limits.total is None:
            most = unit.n_bytes(_MOST_OUTSIDE)
            types = [t for t in types if unit.n_bytes(t) <= most] or types[:1]
        return [TypeChoice(unit.n_bytes(t), sensitivity.loss(unit.name, t)) for t in types]

    def _bytes(self, types: Mapping[str, str], *, of_devices: bool = False) -> int:
        """Return the bytes of all matrices in memory, or of those on devices."""
        times = self._inside if of_devices else self._copies
        return sum(u.n_bytes(types[u.name]) * times[u.name] for u in self.fit.units)
