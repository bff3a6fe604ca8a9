"""Text form of a plan, for `--dry-run` and for golden files."""

from __future__ import annotations

import re
import zlib

from converters.plan import Plan, PlannedPart


def render(p: Plan) -> str:
    """Return a plan as text, one line per tensor; only the first layer is listed."""
    d = p.dims
    lines = [
        f"{p.spec.architecture} → {p.spec.gguf}",
        f"D={d.n_embd} L={d.n_layer} H={d.n_head} K={d.n_head_kv} d={d.head_dim} F={d.n_inner} "
        f"V={d.n_vocab} T={d.n_ctx} R={d.rotary_dim}",
        *(f"{key} = {value}" for key, value in p.metadata.items()),
    ]
    for t in p.tensors:
        layer = re.match(r"blk\.(\d+)\.", t.name)
        if layer and layer[1] != "0":
            continue
        times = f" × {d.n_layer}" if layer else ""
        origin = " + ".join(_origin(part) for part in t.parts) or "zeros"
        lines.append(f"{t.name}{times}  {t.dtype} {list(t.shape)} {_size(t.n_bytes)} ← {origin}")
    if p.dropped:
        kinds = sorted({re.sub(r"\d+", "{i}", n) for n in p.dropped})
        lines.append(f"dropped {len(p.dropped)}: {', '.join(kinds)}")
    sizes = ", ".join(f"{k} {_size(n)}" for k, n in p.bytes_by_type().items()) or "nothing"
    lines.append(f"{len(p.tensors)} tensors, {p.n_weights / 1e6:,.1f} million weights: {sizes}")
    return "\n".join(lines) + "\n"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:,.1f} kB"


def _origin(part: PlannedPart) -> str:
    name = part.source.name + ("ᵀ" if part.transpose else "")
    if part.rows is None:
        return name + part.formula
    head = " ".join(str(r) for r in part.rows[:6])
    crc = zlib.crc32(part.rows.astype("<i8").tobytes())
    return f"{name}[{head} … crc {crc:08x}]{part.formula}"
