"""Output of `turbopilot convert`: the plan or the result, as text or JSON."""

from __future__ import annotations

from dataclasses import asdict

from converters import ConversionReport
from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.render import console


def show_plan(text: str, as_json: bool) -> None:
    """Print the plan of `converters.dry_run`."""
    if as_json:
        console.emit_json({"plan": text.splitlines()})
    else:
        console.result(text.rstrip())


def show(report: ConversionReport, as_json: bool) -> None:
    """Print the result of a conversion; the tokenizer is shown only for the GGUF files of models."""
    if as_json:
        console.emit_json({**asdict(report), "path": str(report.path)})
        return
    files = f" ({report.n_files} files)" if report.n_files > 1 else ""
    console.result(
        f"{report.path}{files}: {report.architecture} → {report.gguf_architecture}, "
        f"{count(report.n_tensors, 'tensor')}, {report.n_weights / 1e6:,.1f} million weights, {report.dtype}, "
        f"{size(report.n_bytes)}, {report.seconds:.1f} s"
    )
    if report.path.is_file() and report.n_tokens:
        fim = "with" if report.has_fim else "without"
        console.result(
            f"tokenizer: {report.n_tokens:,} tokens, pre-tokenizer {report.pre_tokenizer} ({report.pre_origin}), "
            f"{fim} fill-in-the-middle"
        )
