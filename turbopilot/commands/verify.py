"""`turbopilot verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot import console
from turbopilot.errors import VerificationFailed

if TYPE_CHECKING:
    from turbopilot.verify import Report


def verify(
    candidate: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to judge.")],
    against: Annotated[
        str,
        typer.Option(
            help="The checkpoint that it was made of: a folder, a known model's name, owner/name on the Hub, or 'demo' "
            "for the bundled one."
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Compare logits on these prompts: a text file, a line of %% between two prompts."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Compare the tokens of this text too, besides the built-in battery."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON object.")
    ] = False,
) -> None:
    """Prove that a GGUF file is still the model that it was made of.

    PyTorch runs the checkpoint in FP32 and llama.cpp runs the file, on the same texts. First the token ids
    must be the same; then the logits at every position must agree within what the file's type may lose.
    A fault in a conversion (swapped tensors, a wrong rotation, a lost bias) fails; so does a damaged file.

    Exit code 7 means that it failed, and the report says which limit was missed, and where.

    Example: turbopilot verify codegen-q4_0.gguf --against ./codegen-350M-mono
    """
    from turbopilot.commands.resolve import resolve_checkpoint
    from turbopilot.verify import verify as run_verify
    from turbopilot.verify.texts import read_prompts, read_text

    folder = resolve_checkpoint(against)
    chosen = read_prompts(prompts) if prompts else None
    texts = {str(text): read_text(text)} if text else None
    with console.progress("verify") as progress:
        report = run_verify(candidate, folder, prompts=chosen, texts=texts, progress=progress)
    if as_json:
        console.emit_json(report.to_json())
    else:
        _render(report)
    if not report.passed:
        raise VerificationFailed(
            f"{candidate} is not {against} within the limits of {report.type_name}:\n  "
            + "\n  ".join(f.message for f in report.failures),
            hint="convert and quantize it again; if that fails too, it is a bug: please report it",
        )


def _render(report: Report) -> None:
    failed = {failure.check for failure in report.failures}

    def verdict(check: str) -> str:
        return "FAILED" if check in failed else "ok"

    tokens, limits, m = report.tokens, report.limits, report.metrics
    equal = f"{tokens.texts_equal} of {tokens.texts} texts"
    rows = [["token ids equal", f"{equal}, {tokens.ids:,} ids", "all", verdict("tokens")]]
    if m is None or limits is None:
        rows.append(["logits", "not comparable", "", verdict("vocabulary")])
    else:
        top1 = f"{m.clear_top1:.2%} of {m.clear:,}"
        perplexity = f"{m.reference_perplexity:.5g} → {m.candidate_perplexity:.5g}"
        rows += [
            ["positions", f"{m.positions:,} in {report.prompts} prompts", "", ""],
            ["finite logits", f"{m.positions - m.not_finite:,}", "all", verdict("finite")],
            ["NMSE", f"{m.nmse:.2e}", f"≤ {limits.nmse:.2g}", verdict("nmse")],
            ["mean KL (nats)", f"{m.mean_kl:.2e}", f"≤ {limits.mean_kl:.2g}", verdict("mean_kl")],
            ["max KL (nats)", f"{m.max_kl:.2e}", "", ""],
            ["max |Δlogit|", f"{m.max_abs:.3g}", "", ""],
            ["top-1, clear", top1, f"≥ {limits.clear_top1:.2%}", verdict("clear_top1")],
            ["top-1, all", f"{m.top1:.2%}", "", ""],
            ["perplexity", perplexity, "", ""],
        ]
    title = f"{report.candidate}: {report.architecture}, judged as {report.type_name}"
    title += f" ({report.bits_per_weight:.2f} bits/weight), against {report.reference}"
    console.table(title, ["", "measured", "limit", "verdict"], rows, numbers=(1, 2))
    if report.tanh_gelu:
        console.result(
            "limits: the checkpoint's GELU is exact, llama.cpp's is the tanh formula, which alone costs NMSE "
            f"{report.tanh_gelu.nmse:.2e} and mean KL {report.tanh_gelu.mean_kl:.2e}"
        )
    if report.noise:
        console.result(
            f"limits: {report.type_name}'s noise in the checkpoint's own weights gives NMSE "
            f"{report.noise.nmse:.2e} and mean KL {report.noise.mean_kl:.2e}"
        )
    if report.passed:
        versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
        console.result(f"passed ({versions})")
