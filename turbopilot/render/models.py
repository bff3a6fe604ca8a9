"""Output of `turbopilot models`: the catalogue as a table or JSON, or one model in detail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from turbopilot.app.certificates import MOST_TASKS, Certified
from turbopilot.base.sizes import size
from turbopilot.catalog import TYPES, KnownModel
from turbopilot.catalog.prompt_speed import prompt_speeds
from turbopilot.llama.model_memory import ModelMemory
from turbopilot.render import console
from turbopilot.render.table import TableColumns

_COLUMNS: Final = TableColumns(
    ("model", "fits as", "FIM", "10⁹ weights", "Q8_0", "Q4_K_M", "licence"),
    left=("fits as", "FIM", "licence"),
    optional=("licence", "10⁹ weights"),
)


def plain(model: KnownModel, memory: ModelMemory) -> dict[str, Any]:
    """Return a model for JSON, with the memory that each type takes and the best type that fits."""
    sizes = {kind: model.footprint(kind).total for kind in TYPES}
    return {**asdict(model), "memory": sizes, "best_type": model.best_type(memory)}


def table(found: Iterable[KnownModel], memory: ModelMemory) -> None:
    """Print models, one per row, with the best type that fits in this memory."""
    rows = []
    for m in found:
        sizes = [f"{m.footprint(kind).total / 1e9:.1f}" for kind in ("Q8_0", "Q4_K_M")]
        best, fim = m.best_type(memory) or "–", "yes" if m.fim else "no"
        rows.append([m.alias, best, fim, f"{m.parameters / 1e9:.2f}", *sizes, m.licence])
    legend = {
        "fits as": f"best type that fits in {memory}; – if none fits",
        "Q8_0, Q4_K_M": "total memory for serving, in GB",
    }
    console.table("", _COLUMNS, rows, legend)
    console.text(
        f"prefill speed: {prompt_speeds(TYPES)}",
        "details: turbopilot models NAME; to serve a model: turbopilot serve NAME",
    )


def in_full(model: KnownModel, memory: ModelMemory) -> None:
    """Print everything that the catalogue knows about a model, one fact per line."""
    best = model.best_type(memory)
    lines = {
        "model": model.alias,
        "repository": model.url + (f" at {model.revision}" if model.revision else ""),
        "family": f"{model.family} ({model.architecture})",
        "parameters": f"{model.parameters:,}",
        "context": f"{model.context:,} tokens",
        "languages": ", ".join(model.languages) or model.breadth,
        "FIM": "yes" if model.fim else "no",
        "next edits": model.next_edit,
        "licence": model.licence
        + (", must be accepted on the model's page first" if model.gated else ""),
        "notes": model.suits,
        "memory": ", ".join(f"{kind} {size(model.footprint(kind).total)}" for kind in TYPES),
        "prefill": prompt_speeds(TYPES),
        "fits": (f"as {best}, " if best else "no, ") + f"judged by {memory}",
        "ready GGUF": model.gguf_repository,
        "old .bin": model.old_bin.url if model.old_bin else "",
        "serve it": f"turbopilot serve {model.alias}",
    }
    for name, value in lines.items():
        if value:
            console.result(f"{name:<12}{value}")


def certificates(found: Sequence[Certified]) -> None:
    """Print a row for each file, and its results on programming tasks."""
    columns = TableColumns(
        ("file", "verified", "type", "mean KL", "top-1", "against", "date"),
        left=("verified", "type", "against", "date"),
        optional=("date", "top-1", "against", "type"),
    )
    rows = []
    for one in found:
        c = one.certificate
        figures = (
            [c.type_name, f"{c.mean_kl:.2e}", f"{c.top1:.2%}", c.reference, c.date[:10]]
            if c
            else [""] * 5
        )
        rows.append([one.path.name, _verified(one), *figures])
    console.table("", columns, rows)
    for one in found:
        for text in one.certificate.completions[:MOST_TASKS] if one.certificate else ():
            console.text(f"{one.path.name}: {text[:200]}")


def certificate_json(one: Certified) -> dict[str, Any]:
    """Return a certificate for JSON."""
    c = one.certificate
    return {
        "file": str(one.path),
        "state": one.state,
        "verified": bool(c and c.passed and one.state == "valid"),
        "certificate": asdict(c) if c else None,
    }


def _verified(one: Certified) -> str:
    if one.certificate is None:
        return "no"
    if one.state != "valid":
        return f"no longer: {one.state}"
    return "yes" if one.certificate.passed else "failed"
