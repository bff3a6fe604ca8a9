"""Text form of a plan, for `--dry-run` and for golden files."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

from converters.planned import Plan, PlannedPart

MAX_PARTS: Final = 3  # parts of a tensor that are listed
_LAYER: Final = re.compile(r"^blk\.\d+\.")


def render(p: Plan) -> str:
    """Return a plan as text, one line per tensor; of tensors that layers have, only the first is listed."""
    d = p.dims
    more = "".join(f" {letter}={size}" for letter, size in d.more.items())
    lines = [
        f"{p.spec.architecture} → {p.spec.gguf}",
        f"D={d.n_embd} L={d.n_layer} H={d.n_head} K={d.n_head_kv} d={d.head_dim} F={d.n_inner} "
        f"V={d.n_vocab} T={d.n_ctx} R={d.rotary_dim}{more}",
        *(f"{key} = {value}" for key, value in p.metadata.items()),
    ]
    n_layers = Counter(_LAYER.sub("", t.name) for t in p.tensors)
    listed = set()
    for t in p.tensors:
        kind = _LAYER.sub("", t.name)
        if kind in listed:
            continue
        listed.add(kind)
        times = f" × {n_layers[kind]}" if kind != t.name else ""
        lines.append(
            f"{t.name}{times}  {t.dtype} {list(t.shape)} {_size(t.n_bytes)} ← {_origins(t.parts)}"
        )
    if p.dropped:
        kinds = sorted({re.sub(r"\d+", "{i}", n) for n in p.dropped})
        lines.append(f"dropped {len(p.dropped)}: {', '.join(kinds)}")
    sizes = ", ".join(f"{k} {_size(n)}" for k, n in p.bytes_by_type().items()) or "nothing"
    lines.append(f"{len(p.tensors)} tensors, {p.n_weights / 1e6:,.1f} million weights: {sizes}")
    return "\n".join(lines) + "\n"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.1f} kB"


def _origins(parts: Sequence[PlannedPart]) -> str:
    if len(parts) > MAX_PARTS:
        return f"{_origin(parts[0])} + … + {_origin(parts[-1])} ({len(parts)} parts)"
    return " + ".join(_origin(part) for part in parts) or "zeros"


def _origin(part: PlannedPart) -> str:
    name = part.source.name + ("ᵀ" if part.transpose else "")
    if part.rows is None:
        return name + part.formula
    head = " ".join(str(r) for r in part.rows[:6])
    crc = zlib.crc32(part.rows.astype("<i8").tobytes())
    return f"{name}[{head} … crc {crc:08x}]{part.formula}"
