"""Places and sizes of a loaded model's parts, from llama.cpp's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from turbopilot.base.sizes import size
from turbopilot.llama.devices import Device
from turbopilot.llama.log import LlamaLog
from turbopilot.llama.placement import CPU


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Part of a loaded model on one device, or in main memory, in bytes.

    Attributes:
        layers: number of layers, without the output head.
        has_output: whether the output head is there.
        weights: including those mapped from the file.
        compute: buffers for activations and logits.
        free_before: free memory before the model was loaded.
        free_after: free memory after its context was created.
    """

    device: str
    description: str
    layers: int
    has_output: bool
    weights: int
    kv: int
    compute: int
    free_before: int
    free_after: int


def device_uses(
    log: LlamaLog,
    before: Sequence[Device],
    after: Sequence[Device],
    free: tuple[int, int],
) -> tuple[DeviceUse, ...]:
    """Return the parts of the last loaded model: in main memory, then on each device.

    Args:
        log: llama.cpp's log since the model was loaded.
        before: the devices that were used, with their free memory before.
        after: devices with their free memory now.
        free: free main memory before and now.
    """
    left = {d.name: d.free for d in after}
    places = {d.buffer for d in before}
    here = _use(log, Device(CPU, "main memory", free[0], log_name=CPU), None, places, free[1])
    return (here, *(_use(log, d, d.buffer, places, left.get(d.name, 0)) for d in before))


def _use(
    log: LlamaLog, device: Device, place: str | None, places: set[str], free: int
) -> DeviceUse:
    """Return the part in a place; None is every place that belongs to no device."""
    kinds: dict[str, int] = {}
    for kind, each in log.buffers().kinds.items():
        mine = (where == place or (place is None and where not in places) for where in each)
        kinds[kind] = sum(compress(each.values(), mine))
    units = [i for i, name in log.assigned.items() if name == device.log_name]
    has_output = bool(log.assigned) and max(log.assigned) in units
    return DeviceUse(
        device.name, device.description, len(units) - has_output, has_output,
        kinds.get("model", 0), kinds.get("KV", 0) + kinds.get("RS", 0),
        kinds.get("compute", 0) + kinds.get("output", 0), device.free, free,
    )  # fmt: skip


def use_table(uses: Sequence[DeviceUse]) -> list[str]:
    """Return the parts as lines of a table."""
    rows = [("device", "layers", "weights", "KV cache", "compute", "free before", "after")]
    for use in uses:
        layers = f"{use.layers}+output" if use.has_output else str(use.layers)
        sizes = (use.weights, use.kv, use.compute, use.free_before, use.free_after)
        rows.append((use.device, layers, *map(size, sizes)))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        others = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((first.ljust(widths[0]), *others)))
    return lines
